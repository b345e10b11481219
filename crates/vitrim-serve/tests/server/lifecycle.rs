//! Start, reload and end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use vitrim_serve::Settings;

use crate::fixture::{Folder, Running, metric, png, write_model};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_listens_before_its_model_is_loaded_and_says_what_it_does() {
    let folder = Folder::new();
    let running = Running::listen(folder.settings()).await;
    assert_eq!(running.get("/v2/health/live").await, (200, json!({"live": true})));
    let (status, body) = running.get("/v2/health/ready").await;
    assert_eq!((status, &body["ready"], &body["phase"]), (503, &json!(false), &json!("serving")));
    assert_eq!(body["models"], json!([{"name": "m", "ready": false, "stage": "waiting to be loaded"}]));
    let response = running.client.post(running.url("/predict")).body(png(1)).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    let (status, _) = running.get("/v2/models/m/ready").await;
    assert_eq!(status, 503);
    running.server.load().await.unwrap();
    let (status, body) = running.get("/v2/health/ready").await;
    assert_eq!((status, &body["models"][0]["stage"]), (200, &json!("ready")));
    assert_eq!(metric(&running.metrics().await, "vitrim_model_ready{model=\"m\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_ends_the_start_with_its_name() {
    let folder = Folder::new();
    let mut settings = folder.settings();
    settings.model = vec!["m=/no/such/folder".into()];
    let running = Running::listen(settings).await;
    let error = running.server.load().await.unwrap_err().to_string();
    assert!(error.starts_with("model m: /no/such/folder"), "{error}");
    let (_, body) = running.get("/v2/health/ready").await;
    assert_eq!(body["models"][0]["stage"], "failed to load");
    let unloadable = Settings { max_drop: Some(1.0), ..folder.settings() };
    let error = Running::listen(unloadable).await.server.load().await.unwrap_err().to_string();
    assert!(error.contains("give --policy"), "{error}");
}

/// Sends requests until `stop`; counts those that were answered, and panics at the first that was not.
async fn clients(
    running: &Arc<Running>,
    stop: &Arc<AtomicBool>,
    answered: &Arc<AtomicUsize>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let client = |seed: u32| {
        let (running, stop, answered) = (Arc::clone(running), Arc::clone(stop), Arc::clone(answered));
        tokio::spawn(async move {
            let body = png(seed);
            while !stop.load(Ordering::Relaxed) {
                let (status, answer) = running.post("/predict", body.clone()).await;
                assert_eq!(status, 200, "{answer}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    (0..6).map(client).collect()
}

/// Waits until `answered` has grown by `more`.
async fn progress(answered: &AtomicUsize, more: usize) {
    let until = answered.load(Ordering::Relaxed) + more;
    while answered.load(Ordering::Relaxed) < until {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_lose_no_request_and_a_failed_one_leaves_the_old_model_serving() {
    let folder = Folder::new();
    let running = Arc::new(Running::start(folder.pruned()).await);
    let (stop, answered) = (Arc::default(), Arc::default());
    let clients = clients(&running, &stop, &answered).await;
    let load = || running.post("/v2/repository/models/m/load", Vec::new());
    for version in 2..6 {
        progress(&answered, 10).await;
        assert_eq!(load().await.0, 200);
        let (_, metadata) = running.get("/v2/models/m").await;
        assert_eq!(metadata["versions"], json!([version.to_string()]));
    }
    // Another model: the policy is not for it.
    write_model(&folder.model, 9);
    let (status, body) = load().await;
    assert_eq!(status, 422);
    assert!(body["error"].as_str().unwrap().contains("trained for"), "{body}");
    running.server.reload().await;
    progress(&answered, 10).await;
    let (_, metadata) = running.get("/v2/models/m").await;
    assert_eq!(metadata["versions"], json!(["5"]));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every request was answered");
    }
    let text = running.metrics().await;
    assert_eq!(metric(&text, "vitrim_loads_total{model=\"m\",outcome=\"loaded\"}"), 5.0);
    assert_eq!(metric(&text, "vitrim_loads_total{model=\"m\",outcome=\"failed\"}"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unloaded_model_is_unavailable_until_it_is_loaded() {
    let folder = Folder::new();
    let running = Running::start(folder.settings()).await;
    assert_eq!(running.post("/v2/repository/models/m/unload", Vec::new()).await.0, 200);
    let (_, index) = running.post("/v2/repository/index", Vec::new()).await;
    assert_eq!(index, json!([{"name": "m", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}]));
    assert_eq!(running.post("/predict", png(1)).await.0, 503);
    assert_eq!(running.post("/v2/repository/models/m/load", Vec::new()).await.0, 200);
    assert_eq!(running.post("/predict", png(1)).await.0, 200);
    assert_eq!(running.post("/v2/repository/models/other/load", Vec::new()).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_answers_what_is_in_flight() {
    let folder = Folder::new();
    let running = Running::start(folder.settings()).await;
    let (server, client) = (running.server, running.client);
    let url = format!("http://{}/predict", server.rest);
    let ready = format!("http://{}/v2/health/ready", server.rest);
    // Twenty requests, most of them on their way when the end begins.
    let request = |seed: u32| {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(
            async move { client.post(url).body(png(seed)).send().await.map(|r| r.status().as_u16()) },
        )
    };
    let before: Vec<_> = (0..20).map(request).collect();
    let stopping = tokio::spawn(server.stop(Duration::from_millis(400), Duration::from_secs(60)));
    // Not ready at once, and still answering.
    while client.get(&ready).send().await.is_ok_and(|response| response.status() == 200) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for request in before {
        assert_eq!(request.await.unwrap().unwrap(), 200);
    }
    assert!(stopping.await.unwrap(), "all was answered within the limit");
    assert!(client.get(&ready).send().await.is_err(), "the port is closed");
}
