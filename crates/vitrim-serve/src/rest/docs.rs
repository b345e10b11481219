//! The description of the REST API: OpenAPI, generated from the handlers, and a page of it.

use std::fmt::Write;

use axum::Json;
use axum::response::{Html, IntoResponse};
use serde_json::Value;
use utoipa::OpenApi;

use super::{embeddings, health, infer, predict, repository};

/// The OpenAPI description.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "vitrim serve",
        description = "Classifies and embeds images with pruned Vision Transformers. Every answer says which operating point served it and what that point certifies.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    paths(
        predict::predict,
        predict::features,
        embeddings::embeddings,
        embeddings::models,
        health::server,
        health::live,
        health::ready,
        health::model_ready,
        infer::metadata,
        infer::infer,
        health::operating_points,
        repository::index,
        repository::load,
        repository::unload,
        health::metrics,
    )
)]
struct Description;

/// The OpenAPI description, as JSON.
pub fn openapi() -> Value {
    serde_json::to_value(Description::openapi()).expect("a description is plain data")
}

/// `GET /openapi.json`.
pub async fn description() -> impl IntoResponse {
    Json(openapi())
}

/// `GET /docs`: the description as a page, which needs no network.
pub async fn page() -> impl IntoResponse {
    Html(rendered(&openapi()))
}

fn rendered(api: &Value) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>vitrim serve</title><style>body{font:16px/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}\
         code{background:#8882;padding:0 .2em}section{border-top:1px solid #8886}dt{float:left;clear:left;width:12rem}\
         dd{margin-left:12rem}</style>",
    );
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    let _ = write!(
        page,
        "<h1>{}</h1><p>{}</p><p><a href=/openapi.json>openapi.json</a></p>",
        text(&api["info"]["title"]),
        text(&api["info"]["description"])
    );
    let none = serde_json::Map::new();
    for (path, methods) in api["paths"].as_object().unwrap_or(&none) {
        for (method, operation) in methods.as_object().unwrap_or(&none) {
            let (method, path) = (method.to_uppercase(), escaped(path));
            let _ = write!(page, "<section><h3><code>{method} {path}</code></h3>");
            let _ = write!(
                page,
                "<p>{} {}</p><dl>",
                text(&operation["summary"]),
                text(&operation["description"])
            );
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let (name, description) = (text(&parameter["name"]), text(&parameter["description"]));
                let _ = write!(page, "<dt><code>{name}</code></dt><dd>{description}&nbsp;</dd>");
            }
            for (status, response) in operation["responses"].as_object().unwrap_or(&none) {
                let description = text(&response["description"]);
                let _ = write!(page, "<dt>{}</dt><dd>{description}&nbsp;</dd>", escaped(status));
            }
            page.push_str("</dl></section>");
        }
    }
    page.push_str("</html>");
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
