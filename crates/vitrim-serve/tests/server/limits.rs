//! What a server refuses, and how it says so.

use std::time::{Duration, Instant};

use reqwest::multipart::{Form, Part};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use vitrim_data::image::ImageFormat;
use vitrim_data::{RgbImage, image};
use vitrim_serve::Settings;
use vitrim_serve::engine::{Ask, Input};
use vitrim_serve::refusal::Refusal;
use vitrim_serve::scheduler::{Choice, Waiting};
use vitrim_serve::settings::Span;

use crate::fixture::{Folder, Running, metric, picture, png};

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_status_and_one_line() {
    let folder = Folder::new();
    let settings =
        Settings { max_body: Some(1), max_images: Some(2), max_megapixels: Some(1), ..folder.settings() };
    let running = Running::start(settings).await;
    let encoded = |image: &RgbImage, format| {
        let mut file = std::io::Cursor::new(Vec::new());
        image::DynamicImage::ImageRgb8(image.clone()).write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    let jpeg = encoded(&picture(1), ImageFormat::Jpeg);
    let bomb = encoded(&RgbImage::new(1500, 1000), ImageFormat::Png);
    let cases: [(&str, Vec<u8>, u16, &str); 9] = [
        ("/predict", jpeg[..jpeg.len() / 2].to_vec(), 422, "truncated JPEG"),
        ("/predict", png(1)[..60].to_vec(), 422, "cannot be decoded"),
        ("/predict", b"hello".to_vec(), 415, "neither JPEG"),
        ("/predict", Vec::new(), 415, "neither JPEG"),
        ("/predict", bomb, 413, "megapixels"),
        ("/predict", vec![0; 8 << 20], 413, "1 MiB"),
        ("/predict?top_k=x", png(1), 422, "top_k"),
        ("/predict?unknown=1", png(1), 422, "unknown"),
        ("/features?kind=embedding", png(1), 422, "no projection"),
    ];
    for (path, body, wanted, words) in cases {
        let (status, answer) = running.post(path, body).await;
        let line = answer["error"].as_str().unwrap();
        assert_eq!(status, wanted, "{line}");
        assert!(line.contains(words) && !line.contains('\n'), "{line}");
    }
    let text = running.client.post(running.url("/predict")).header("content-type", "text/plain");
    assert_eq!(text.body("hello").send().await.unwrap().status(), 415);
    let form = (0..3).fold(Form::new(), |form, seed| form.part("a", Part::bytes(png(seed))));
    let many = running.client.post(running.url("/predict")).multipart(form).send().await.unwrap();
    assert_eq!(many.status(), 413);
    // The server lives, and counts.
    assert_eq!(running.post("/predict", png(1)).await.0, 200);
    let counted =
        metric(&running.metrics().await, "vitrim_requests_total{route=\"/predict\",status=\"422\"}");
    assert_eq!(counted, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_for_one_and_for_many_and_a_place_comes_back() {
    let folder = Folder::new();
    let running = Running::start(Settings { queue: Some(4), ..folder.settings() }).await;
    let scheduler = &running.server.app().scheduler;
    let form = |images: u32| {
        let form = (0..images).fold(Form::new(), |form, seed| form.part("a", Part::bytes(png(seed))));
        running.client.post(running.url("/predict")).multipart(form).send()
    };
    let held = scheduler.admit(0, 3).unwrap();
    assert_eq!(form(1).await.unwrap().status(), 200, "one place is left");
    let refused = form(2).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let last = scheduler.admit(0, 1).unwrap();
    let line = running.post("/predict", png(1)).await;
    assert_eq!(line.0, 429);
    assert!(line.1["error"].as_str().unwrap().contains("4 of 4 images"), "{}", line.1);
    drop((held, last));
    assert_eq!(form(2).await.unwrap().status(), 200);
    assert_eq!(form(5).await.unwrap().status(), 413, "more than the queue ever holds");
    assert_eq!(metric(&running.metrics().await, "vitrim_images_refused_total{model=\"m\"}"), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_is_dropped_before_it_starts() {
    let folder = Folder::new();
    let running = Running::start(folder.settings()).await;
    assert_eq!(running.post("/predict?timeout_ms=0", png(1)).await.0, 504);
    let late = running.client.post(running.url("/predict")).header("x-timeout-ms", "0");
    assert_eq!(late.body(png(1)).send().await.unwrap().status(), 504);
    assert_eq!(running.post("/predict?timeout_ms=100000", png(1)).await.0, 200);

    let app = running.server.app();
    let queue = |deadline: Instant| {
        let place = app.scheduler.admit(0, 1).unwrap().pop().unwrap();
        let (reply, answer) = oneshot::channel();
        let engine = app.repository.engine(0).unwrap();
        let input = Input::Pixels(vec![0.0; engine.values()]);
        let (ask, choice, now) = (Ask::LOGITS, Choice::Server, Instant::now());
        let image =
            Waiting { engine, input, ask, choice, deadline, decode: Duration::ZERO, since: now, reply };
        (place, image, answer)
    };
    let before = running.metrics().await;
    let batches = metric(&before, "vitrim_batches_total{model=\"m\"}");
    let (place, image, answer) = queue(Instant::now() + Duration::from_secs(60));
    drop(answer);
    place.fill(image);
    let (place, image, answer) = queue(Instant::now());
    place.fill(image);
    assert!(matches!(answer.await.unwrap(), Err(Refusal::Deadline(_))));
    // They are counted a moment after they are answered.
    let dropped = async |reason: &str, wanted: f64| {
        let name = format!("vitrim_images_dropped_total{{model=\"m\",reason=\"{reason}\"}}");
        while metric(&running.metrics().await, &name) < wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    dropped("deadline", 1.0).await;
    dropped("disconnected", 1.0).await;
    let after = running.metrics().await;
    assert_eq!(metric(&after, "vitrim_batches_total{model=\"m\"}"), batches);
    assert_eq!(running.server.app().scheduler.load().0, 0, "no place is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_cut_by_their_expected_cost() {
    let folder = Folder::new();
    let largest = async |settings: Settings| {
        let running = Running::start(settings).await;
        let form = (0..24).fold(Form::new(), |form, seed| form.part("a", Part::bytes(png(seed))));
        let answer = running.client.post(running.url("/predict")).multipart(form).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let gmacs: f64 = answer.headers()["x-gmacs"].to_str().unwrap().parse().unwrap();
        (answer.headers()["x-batch-images"].to_str().unwrap().parse::<usize>().unwrap(), gmacs / 24.0)
    };
    let (_, gmacs) = largest(folder.settings()).await;
    let (images, _) = largest(Settings { batch_gmacs: Some(2.5 * gmacs), ..folder.settings() }).await;
    assert!((1..=2).contains(&images), "{images} images in a batch of at most 2.5 images' cost");
    let (images, _) = largest(Settings { batch_gmacs: Some(0.1 * gmacs), ..folder.settings() }).await;
    assert_eq!(images, 1, "an image that costs more than the budget runs alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_let_go() {
    let folder = Folder::new();
    let short = Some(Span(Duration::from_millis(300)));
    let settings = Settings { header_timeout: short, body_timeout: short, ..folder.settings() };
    let running = Running::start(settings).await;
    let address = running.server.rest;
    // Less than the default of both settings, which would let them go, too.
    let limit = Duration::from_secs(20);
    // Half a head: the connection is closed.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST /predict HTTP/1.1\r\nHost: a\r\nX-Slow").await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(limit, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection is still open");
    // A head without end.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /v2 HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "a".repeat(200 << 10));
    // The server may close while this is still being sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(limit, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&rest));
    // An idle connection, after an answer.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(limit, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.starts_with(b"HTTP/1.1 200"), "the idle connection is still open");
    // Half a body: 408.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc").await.unwrap();
    let mut head = [0; 12];
    tokio::time::timeout(limit, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 408");
    assert_eq!(running.post("/predict", png(1)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_being_received_are_bounded_together() {
    let folder = Folder::new();
    let settings = Settings { max_body: Some(1), max_receiving: Some(1), ..folder.settings() };
    let running = Running::start(settings).await;
    let mut slow = TcpStream::connect(running.server.rest).await.unwrap();
    slow.write_all(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc").await.unwrap();
    let large = || running.post("/predict", vec![0; 900_000]);
    let mut refused = large().await;
    // Until the server has seen the slow one.
    while refused.0 == 415 {
        refused = large().await;
    }
    assert_eq!(refused.0, 429);
    assert!(refused.1["error"].as_str().unwrap().contains("--max-receiving"), "{}", refused.1);
    assert_eq!(running.post("/predict", png(1)).await.0, 200, "small ones fit beside it");
    drop(slow);
    while large().await.0 == 429 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_need_the_token_and_probes_do_not() {
    let folder = Folder::new();
    let file = folder.root.path().join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let running = Running::start(Settings { token_file: Some(file), ..folder.settings() }).await;
    let ask = |token: Option<&'static str>| {
        let request = running.client.post(running.url("/predict")).body(png(1));
        match token {
            Some(token) => request.header("authorization", token),
            None => request,
        }
        .send()
    };
    for token in [None, Some("Bearer secre"), Some("Bearer secrets"), Some("Basic secret"), Some("Bearer ")] {
        let response = ask(token).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["www-authenticate"]),
            (401, &"Bearer".parse().unwrap())
        );
    }
    assert_eq!(ask(Some("Bearer secret")).await.unwrap().status(), 200);
    assert_eq!(ask(Some("bearer secret")).await.unwrap().status(), 200);
    assert_eq!(running.client.get(running.url("/metrics")).send().await.unwrap().status(), 401);
    assert_eq!(running.get("/v2/health/ready").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_speak_tls_and_get_a_new_certificate_after_a_reload() {
    let folder = Folder::new();
    let (cert, key) = (folder.root.path().join("cert.pem"), folder.root.path().join("key.pem"));
    let write = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    };
    let first = write();
    let settings = Settings { tls_cert: Some(cert.clone()), tls_key: Some(key.clone()), ..folder.settings() };
    let running = Running::start(settings).await;
    let live = async |trusted: &rustls::pki_types::CertificateDer<'static>| -> std::io::Result<String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let tcp = TcpStream::connect(running.server.rest).await?;
        let mut stream = connector.connect("localhost".try_into().unwrap(), tcp).await?;
        stream
            .write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    assert!(live(&first).await.unwrap().starts_with("HTTP/1.1 200"));
    let second = write();
    assert!(live(&second).await.is_err());
    running.server.reload().await;
    assert!(live(&second).await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(live(&first).await.is_err());
    std::fs::write(&cert, "no PEM").unwrap();
    running.server.reload().await;
    assert!(live(&second).await.is_ok(), "the old one is still used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_let_go() {
    let folder = Folder::new();
    let short = Duration::from_millis(500);
    let running = Running::start(Settings { header_timeout: Some(Span(short)), ..folder.settings() }).await;
    let page = running.client.get(running.url("/openapi.json")).send().await.unwrap().bytes().await.unwrap();
    // More than the buffers of a connection hold.
    let requests = (64 << 20) / page.len();
    let mut stream = TcpStream::connect(running.server.rest).await.unwrap();
    let ask = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(requests);
    let _ = tokio::time::timeout(short, stream.write_all(&ask)).await;
    tokio::time::sleep(5 * short).await;
    let mut answers = Vec::new();
    // It ends by the end of the connection, or by its reset.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answers)).await.unwrap();
    assert!(answers.len() < requests * page.len(), "{} bytes were kept for it", answers.len());
    assert_eq!(running.post("/predict", png(1)).await.0, 200);
}
