//! The routes of REST, and that answers are those of `vitrim predict`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use vitrim_measure::Loaded;
use vitrim_measure::model::features::{FeatureKind, Features};
use vitrim_measure::model::open_policy;
use vitrim_measure::predict::{Answer, Question, answer};
use vitrim_prune::{Dial, NoPruner, Pruner, ReadOut};
use vitrim_serve::Settings;

use crate::fixture::{CLASSES, Folder, Running, SIDE, picture, png};

/// What `vitrim predict` answers for the picture `seed`, at a threshold or dense.
fn predicted(folder: &Folder, seed: u32, threshold: Option<f64>, question: Question) -> Answer {
    let loaded = Loaded::open(&folder.model).unwrap();
    let pruner: Box<dyn Pruner> = match threshold {
        None => Box::new(NoPruner),
        Some(threshold) => {
            let policy = open_policy(&folder.policy, &loaded).unwrap();
            policy.pruner_at(&loaded.spec, &policy.at_setting(threshold)).unwrap()
        }
    };
    let crop = loaded.transform.cropped(&picture(seed));
    let mut answers = answer(&loaded, &loaded.model, pruner.as_ref(), &[&crop], question).unwrap();
    answers.pop().unwrap()
}

/// What a client reads of `value`: f32 are written with their own digits, and read as f64.
fn as_read(value: &impl serde::Serialize) -> Value {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

fn probabilities(image: &Value) -> Vec<(u64, f64)> {
    let classes = image["classes"].as_array().unwrap();
    classes.iter().map(|c| (c["class"].as_u64().unwrap(), c["probability"].as_f64().unwrap())).collect()
}

fn expected(answer: &Answer) -> Vec<(u64, f64)> {
    answer.classes.iter().map(|c| (c.class as u64, c.probability)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_predict_whatever_they_were_batched_with() {
    let folder = Folder::new();
    let running = Running::start(folder.pruned()).await;
    // Many at once, at several operating points, so that batches of all sizes form.
    let ask = async |seed: u32, query: &str, threshold: Option<f64>| {
        let (status, body) = running.post(&format!("/predict?survivors=true{query}"), png(seed)).await;
        assert_eq!(status, 200, "{body}");
        let wanted = predicted(&folder, seed, threshold, Question::Classes(5));
        let image = &body["images"][0];
        assert_eq!(probabilities(image), expected(&wanted), "bit for bit");
        assert_eq!(image["gmacs"], wanted.macs as f64 / 1e9);
        assert_eq!(image["stages"], serde_json::to_value(&wanted.stages).unwrap());
        let name = threshold.map_or("dense".to_owned(), |threshold| format!("threshold={threshold}"));
        assert_eq!(image["operating_point"]["name"], name);
    };
    let mut asked = Vec::new();
    for seed in 0..12 {
        asked.push(ask(seed, "", Some(0.5)));
        asked.push(ask(seed, "&max_drop=0", None));
        asked.push(ask(seed, "&max_drop=50", Some(0.55)));
    }
    futures(asked).await;
    let (status, body) = running.post("/features?kind=tokens", png(3)).await;
    assert_eq!(status, 200, "{body}");
    let wanted = predicted(&folder, 3, Some(0.5), Question::Features(FeatureKind::Tokens));
    let Some(Features::Tokens(tokens)) = &wanted.features else { panic!("tokens were asked for") };
    assert_eq!(body["images"][0]["tokens"], as_read(tokens));
    assert_eq!(body["images"][0]["gmacs"], wanted.macs as f64 / 1e9);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_decisions_are_those_of_predict() {
    let folder = Folder::new();
    let loaded = Loaded::open(&folder.model).unwrap();
    let mut policy = open_policy(&folder.policy, &loaded).unwrap();
    policy.set(Dial::ReadOut(ReadOut::Sample { seed: 5 })).unwrap();
    policy.set_calibration(None);
    policy.save(&folder.policy).unwrap();
    let running = Running::start(folder.pruned()).await;
    let pruner = policy.pruner(&loaded.spec).unwrap();
    for seed in 0..4 {
        let crop = loaded.transform.cropped(&picture(seed));
        let wanted = answer(&loaded, &loaded.model, pruner.as_ref(), &[&crop], Question::Classes(5)).unwrap();
        let (_, body) = running.post("/predict?survivors=true", png(seed)).await;
        assert_eq!(probabilities(&body["images"][0]), expected(&wanted[0]));
        assert_eq!(body["images"][0]["stages"], serde_json::to_value(&wanted[0].stages).unwrap());
    }
}

/// Runs all at the same time.
async fn futures<T>(all: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    done.into_iter().map(|value| value.expect("all are done")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_has_many_images_and_headers_say_what_they_took() {
    let folder = Folder::new();
    let running = Running::start(folder.pruned()).await;
    let part = |seed| Part::bytes(png(seed)).file_name(format!("{seed}.png"));
    let form = Form::new().part("a", part(1)).part("b", part(2)).part("c", part(3));
    let response = running.client.post(running.url("/predict?top_k=1")).multipart(form).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    let body: Value = response.json().await.unwrap();
    let images = body["images"].as_array().unwrap();
    let names: Vec<&str> = images.iter().map(|image| image["image"].as_str().unwrap()).collect();
    assert_eq!(names, ["1.png", "2.png", "3.png"]);
    assert!(images.iter().all(|image| image["classes"].as_array().unwrap().len() == 1));
    let header = |name: &str| headers[name].to_str().unwrap();
    assert_eq!(header("x-operating-point"), "threshold=0.5");
    assert!(header("x-certified-loss").starts_with("drop <= "), "{}", header("x-certified-loss"));
    let gmacs: f64 = images.iter().map(|image| image["gmacs"].as_f64().unwrap()).sum();
    assert!((header("x-gmacs").parse::<f64>().unwrap() - gmacs).abs() < 1e-6);
    for name in ["x-queue-time-ms", "x-compute-time-ms", "x-decode-time-ms", "x-total-time-ms"] {
        assert!(header(name).parse::<f64>().unwrap() >= 0.0);
    }
    assert_eq!(body["model"], "m");
    // Uncompressed photographs have megabytes.
    let mut file = std::io::Cursor::new(Vec::new());
    vitrim_data::RgbImage::new(1024, 1024).write_to(&mut file, vitrim_data::image::ImageFormat::Bmp).unwrap();
    let form = Form::new().part("a", Part::bytes(file.into_inner()));
    let large = running.client.post(running.url("/predict")).multipart(form).send().await.unwrap();
    assert_eq!(large.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_chooses_among_certified_points() {
    let folder = Folder::new();
    let running = Running::start(folder.pruned()).await;
    let (_, points) = running.get("/v2/models/m/operating_points").await;
    let points = points["points"].as_array().unwrap();
    let names: Vec<&str> = points.iter().map(|point| point["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dense", "threshold=0.4", "threshold=0.5", "threshold=0.55"]);
    let bound = |point: &Value| point["certified"]["at_most"].as_f64().unwrap();
    assert!(points.windows(2).all(|pair| bound(&pair[0]) <= bound(&pair[1])));
    // 30 of 2000 images: 1.5 pp, and a margin.
    assert!((1.5..2.1).contains(&bound(&points[3])), "{}", bound(&points[3]));
    let served = async |query: String| {
        let (status, body) = running.post(&format!("/predict{query}"), png(1)).await;
        (status, body["images"][0]["operating_point"]["name"].clone(), body["error"].clone())
    };
    let gmacs = points[1]["gmacs"].as_f64().unwrap();
    assert_eq!(served(format!("?gmacs={gmacs}")).await.1, "threshold=0.4");
    assert_eq!(served(format!("?max_drop={}", bound(&points[1]))).await.1, "threshold=0.4");
    let (status, _, error) = served("?gmacs=0.0000001".into()).await;
    assert!(status == 422 && error.as_str().unwrap().contains("the cheapest costs"), "{error}");
    let (status, ..) = served("?max_drop=-1".into()).await;
    assert_eq!(status, 422);
    // Beyond the operator's limit, no point is offered at all.
    let limited = Running::start(Settings { max_drop: Some(bound(&points[2])), ..folder.pruned() }).await;
    let (_, body) = limited.post("/predict?max_drop=50", png(1)).await;
    assert_eq!(body["images"][0]["operating_point"]["name"], "threshold=0.5");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_inference_protocol_takes_pixels_and_images_in_all_forms() {
    let folder = Folder::new();
    let running = Running::start(folder.settings()).await;
    let (_, metadata) = running.get("/v2/models/m").await;
    assert_eq!(metadata["inputs"][0]["shape"], json!([-1, 3, SIDE, SIDE]));
    assert_eq!(metadata["outputs"][0], json!({"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}));
    let loaded = Loaded::open(&folder.model).unwrap();
    let pixels = loaded.transform.pixels(&picture(4));
    let wanted = loaded.model.dense_logits(vitrim_vit::PixelBatch::new(&pixels, 1)).unwrap().values;
    let logits = |body: &Value| -> Vec<f32> {
        let output = body["outputs"].as_array().unwrap().iter().find(|o| o["name"] == "logits").unwrap();
        output["data"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    };
    let nested: Vec<Vec<&[f32]>> =
        pixels.chunks(SIDE * SIDE).map(|plane| plane.chunks(SIDE).collect()).collect();
    let image = BASE64.encode(png(4));
    for input in [
        json!({"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": pixels}),
        json!({"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": [nested]}),
        json!({"name": "images", "datatype": "BYTES", "shape": [1], "data": [image]}),
    ] {
        let body = json!({"id": "7", "inputs": [input]});
        let (status, body) = running.post_json("/v2/models/m/infer", &body).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(logits(&body), wanted);
        assert_eq!((&body["id"], &body["model_version"]), (&json!("7"), &json!("1")));
    }
    // The binary extension, in and out.
    let raw: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let head = json!({
        "inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE],
                    "parameters": {"binary_data_size": raw.len()}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": true}}, {"name": "operating_point"}],
    })
    .to_string();
    let length = head.len();
    let body = [head.into_bytes(), raw].concat();
    let send = |length: usize, body: Vec<u8>| {
        let request = running.client.post(running.url("/v2/models/m/versions/1/infer"));
        request.header("Inference-Header-Content-Length", length).body(body).send()
    };
    let response = send(length, body.clone()).await.unwrap();
    assert_eq!(response.status(), 200);
    let json_length: usize =
        response.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let bytes = response.bytes().await.unwrap();
    let head: Value = serde_json::from_slice(&bytes[..json_length]).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 4 * CLASSES);
    assert_eq!(head["outputs"][1]["data"], json!(["dense"]));
    let values: Vec<f32> =
        bytes[json_length..].chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(values, wanted);
    let cut = body[..body.len() - 4].to_vec();
    for (length, body) in [(body.len() + 1, body.clone()), (length, cut), (0, body)] {
        assert_eq!(send(length, body).await.unwrap().status(), 422);
    }
    for bad in [
        json!({"inputs": []}),
        json!({"inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [1.0]}]}),
        json!({"inputs": [{"name": "pixel_values", "datatype": "FP64", "shape": [1, 3, SIDE, SIDE], "data": []}]}),
        json!({"inputs": [{"name": "images", "datatype": "BYTES", "shape": [2], "data": ["QUJD"]}]}),
        json!({"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["QUJD"]}],
               "outputs": [{"name": "boxes"}]}),
    ] {
        let (status, body) = running.post_json("/v2/models/m/infer", &bad).await;
        assert_eq!(status, 422, "{body}");
        assert!(!body["error"].as_str().unwrap().contains('\n'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_come_in_openais_form() {
    let folder = Folder::new();
    let running = Running::start(folder.settings()).await;
    let wanted = predicted(&folder, 5, None, Question::Features(FeatureKind::Pooled));
    let Some(Features::Pooled(wanted)) = wanted.features else { panic!("pooled features were asked for") };
    let url = format!("data:image/png;base64,{}", BASE64.encode(png(5)));
    let body = json!({"model": "m", "input": [url, {"image_url": {"url": url}}]});
    let (status, body) = running.post_json("/v1/embeddings", &body).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["data"][1]["index"], 1);
    assert_eq!(body["data"][0]["embedding"], as_read(&wanted));
    let body = json!({"input": BASE64.encode(png(5)), "encoding_format": "base64"});
    let (_, body) = running.post_json("/v1/embeddings", &body).await;
    let raw = BASE64.decode(body["data"][0]["embedding"].as_str().unwrap()).unwrap();
    assert_eq!(raw, wanted.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    for (input, words) in [("https://example.org/a.jpg", "fetches no URLs"), ("***", "not base64")] {
        let (status, body) = running.post_json("/v1/embeddings", &json!({"input": input})).await;
        assert_eq!(status, 422);
        let error = &body["error"];
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_are_found_by_name() {
    let folder = Folder::new();
    let other = folder.root.path().join("other");
    crate::fixture::write_model(&other, 2);
    let mut settings = folder.settings();
    settings.model.push(other.display().to_string());
    let running = Running::start(settings).await;
    let (_, first) = running.post("/predict", png(1)).await;
    let (_, second) = running.post("/predict?model=other", png(1)).await;
    assert_eq!((&first["model"], &second["model"]), (&json!("m"), &json!("other")));
    assert_ne!(first["images"][0]["classes"], second["images"][0]["classes"]);
    let (status, body) = running.post("/predict?model=nobody", png(1)).await;
    assert!(status == 404 && body["error"].as_str().unwrap().contains("m, other"), "{body}");
}

#[test]
fn the_checked_in_description_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let mut current = serde_json::to_string_pretty(&vitrim_serve::rest::openapi()).unwrap();
    current.push('\n');
    if std::env::var_os("VITRIM_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap();
    assert!(stored == current, "{path} is old; run this test with VITRIM_WRITE_OPENAPI=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_described_by_the_server() {
    let folder = Folder::new();
    let running = Running::listen(folder.settings()).await;
    let (status, api) = running.get("/openapi.json").await;
    assert_eq!(status, 200);
    assert!(api["paths"]["/predict"]["post"]["responses"]["429"].is_object());
    let page = running.client.get(running.url("/docs")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("POST /v2/models/{model}/infer"));
    let (status, body) = running.get("/nothing").await;
    assert!(status == 404 && body["error"].as_str().unwrap().contains("/docs"));
}
