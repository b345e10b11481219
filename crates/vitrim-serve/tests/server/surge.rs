//! The sliding operating point, through a server: with targets that no machine meets, or misses.

use std::time::Duration;

use serde_json::json;
use vitrim_serve::Settings;
use vitrim_serve::settings::Span;

use crate::fixture::{Folder, Running, metric, png, write_method};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_misses_its_target_serves_the_cheapest_point_within_its_limit() {
    let folder = Folder::new();
    let target_p99 = Some(Span(Duration::from_nanos(1)));
    let running = Running::start(Settings { target_p99, max_drop: Some(1.0), ..folder.pruned() }).await;
    let (_, points) = running.get("/v2/models/m/operating_points").await;
    let points = points["points"].as_array().unwrap();
    assert_eq!(points.len(), 3, "the last certifies more than 1 pp");
    let cheapest = points.last().unwrap();
    assert!(cheapest["certified"]["at_most"].as_f64().unwrap() <= 1.0);
    let (_, body) = running.post("/predict", png(1)).await;
    assert_eq!(body["images"][0]["operating_point"], *cheapest);
    // A request may ask for less loss, or for one point.
    for (query, name) in [("max_drop=0", "dense"), ("max_drop=90", "threshold=0.5"), ("gmacs=9", "dense")] {
        let (_, body) = running.post(&format!("/predict?{query}"), png(1)).await;
        assert_eq!(body["images"][0]["operating_point"]["name"], name, "{query}");
    }
    // While nothing arrives, the server steps back: at the latest after the next seconds.
    let text = running.metrics().await;
    let changes = "vitrim_operating_point_changes_total{model=\"m\",direction=\"cheaper\"}";
    assert!(metric(&text, changes) >= 1.0);
    let point = &points[metric(&text, "vitrim_operating_point{model=\"m\"}") as usize];
    let certified = metric(&text, "vitrim_operating_point_certified_loss{model=\"m\"}");
    assert!((certified - point["certified"]["at_most"].as_f64().unwrap()).abs() < 1e-9);
    let served = "vitrim_images_total{model=\"m\",operating_point=\"threshold=0.5\"}";
    assert_eq!(metric(&text, served), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_meets_its_target_serves_the_dense_model() {
    let folder = Folder::new();
    let target_p99 = Some(Span(Duration::from_secs(3600)));
    let running = Running::start(Settings { target_p99, ..folder.pruned() }).await;
    let (_, body) = running.post("/predict", png(1)).await;
    assert_eq!(body["images"][0]["operating_point"]["name"], "dense");
    let (_, ready) = running.get("/v2/health/ready").await;
    assert_eq!(ready["ready"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_slides_without_a_certificate() {
    let folder = Folder::new();
    let loaded = vitrim_measure::Loaded::open(&folder.model).unwrap();
    let mut policy = vitrim_measure::model::open_policy(&folder.policy, &loaded).unwrap();
    policy.set_calibration(None);
    policy.save(&folder.policy).unwrap();
    let target_p99 = Some(Span(Duration::from_millis(50)));
    let refused = Running::listen(Settings { target_p99, max_drop: Some(1.0), ..folder.pruned() }).await;
    let error = refused.server.load().await.unwrap_err().to_string();
    assert!(error.contains("not calibrated"), "{error}");
    // Without a limit the policy serves as it is, and says that nothing is certified.
    let running = Running::start(folder.pruned()).await;
    let (_, body) = running.post("/predict", png(1)).await;
    let point = &body["images"][0]["operating_point"];
    assert_eq!((&point["name"], &point["certified"]), (&json!("threshold=0.5"), &json!(null)));
    let (_, body) = running.post("/predict?max_drop=5", png(1)).await;
    assert_eq!(body["images"][0]["operating_point"]["name"], "dense", "the only certified point");
}

/// As a learned policy: its certified costs are the operating points, and requests choose among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_hand_made_method_is_served_at_its_certified_costs() {
    let folder = Folder::new();
    write_method(&folder.policy, &folder.model);
    let running = Running::start(folder.pruned()).await;
    let (_, points) = running.get("/v2/models/m/operating_points").await;
    let points = points["points"].as_array().unwrap();
    let names: Vec<_> = points.iter().map(|point| point["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dense", "cost=0.9", "cost=0.7", "cost=0.5"]);
    let (_, body) = running.post("/predict", png(1)).await;
    assert_eq!(body["images"][0]["operating_point"], points[2], "what the policy is set to");
    let gmacs = |body: &serde_json::Value| body["images"][0]["gmacs"].as_f64().unwrap();
    let (_, dense) = running.post("/predict?max_drop=0", png(1)).await;
    let (_, bold) = running.post("/predict?max_drop=90", png(1)).await;
    assert_eq!(bold["images"][0]["operating_point"]["name"], "cost=0.5");
    assert!(gmacs(&bold) < gmacs(&body) && gmacs(&body) < gmacs(&dense));
}
