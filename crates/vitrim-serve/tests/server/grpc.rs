//! gRPC: the protocol, health, deadlines.

use std::time::Duration;

use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use vitrim_measure::Loaded;
use vitrim_serve::Settings;
use vitrim_serve::grpc::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use vitrim_serve::grpc::inference::model_infer_request::InferInputTensor;
use vitrim_serve::grpc::inference::*;
use vitrim_vit::PixelBatch;

use crate::fixture::{CLASSES, Folder, Running, SIDE, picture, png};

async fn connected(running: &Running) -> Channel {
    let address = running.server.grpc.unwrap();
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn input(name: &str, datatype: &str, shape: Vec<i64>) -> InferInputTensor {
    InferInputTensor { name: name.into(), datatype: datatype.into(), shape, ..Default::default() }
}

fn request(input: InferInputTensor, raw: Option<Vec<u8>>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        id: "9".into(),
        inputs: vec![input],
        raw_input_contents: raw.into_iter().map(Into::into).collect(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_served_over_grpc() {
    let folder = Folder::new();
    let running = Running::listen(Settings { grpc_port: Some(0), ..folder.settings() }).await;
    let channel = connected(&running).await;
    let mut client = GrpcInferenceServiceClient::new(channel.clone());
    let mut health = HealthClient::new(channel);
    let mut check = async || {
        health.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner().status
    };
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert_eq!(check().await, ServingStatus::NotServing as i32);
    let early = client.model_infer(request(input("images", "BYTES", vec![1]), None)).await;
    assert_eq!(early.unwrap_err().code(), Code::Unavailable);
    running.server.load().await.unwrap();
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    while check().await != ServingStatus::Serving as i32 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let named = ModelMetadataRequest { name: "m".into(), version: "1".into() };
    let metadata = client.model_metadata(named).await.unwrap().into_inner();
    assert_eq!(metadata.inputs[0].shape, [-1, 3, SIDE as i64, SIDE as i64]);
    assert_eq!((metadata.outputs[0].name.as_str(), metadata.versions[0].as_str()), ("logits", "1"));

    let loaded = Loaded::open(&folder.model).unwrap();
    let pixels = loaded.transform.pixels(&picture(2));
    let wanted = loaded.model.dense_logits(PixelBatch::new(&pixels, 1)).unwrap().values;
    let shape = vec![1, 3, SIDE as i64, SIDE as i64];
    let raw: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let answer = client.model_infer(request(input("pixel_values", "FP32", shape.clone()), Some(raw))).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.id.as_str(), answer.outputs[0].name.as_str()), ("9", "logits"));
    assert_eq!(answer.outputs[0].shape, [1, CLASSES as i64]);
    let bytes: Vec<u8> = wanted.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(answer.raw_output_contents[0], bytes, "bit for bit");
    // As typed contents, and as an encoded image.
    let mut typed = input("pixel_values", "FP32", shape);
    typed.contents = Some(InferTensorContents { fp32_contents: pixels, ..Default::default() });
    let mut encoded = input("images", "BYTES", vec![1]);
    encoded.contents =
        Some(InferTensorContents { bytes_contents: vec![png(2).into()], ..Default::default() });
    for tensor in [typed, encoded] {
        let answer = client.model_infer(request(tensor, None)).await.unwrap().into_inner();
        assert_eq!(answer.outputs[0].contents.as_ref().unwrap().fp32_contents, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_codes_and_deadlines_are_kept() {
    let folder = Folder::new();
    let file = folder.root.path().join("token");
    std::fs::write(&file, "secret").unwrap();
    let settings = Settings { grpc_port: Some(0), token_file: Some(file), queue: Some(2), ..folder.pruned() };
    let running = Running::start(settings).await;
    let mut client = GrpcInferenceServiceClient::new(connected(&running).await);
    let image = || {
        let mut raw = (png(1).len() as u32).to_le_bytes().to_vec();
        raw.extend(png(1));
        request(input("images", "BYTES", vec![1]), Some(raw))
    };
    let with_token = |message: ModelInferRequest| {
        let mut call = tonic::Request::new(message);
        call.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
        call
    };
    assert_eq!(client.model_infer(image()).await.unwrap_err().code(), Code::Unauthenticated);
    let answer = client.model_infer(with_token(image())).await.unwrap().into_inner();
    assert!(answer.parameters.contains_key("certified_loss"), "{:?}", answer.parameters);
    let mut bad = image();
    bad.raw_input_contents.clear();
    assert_eq!(client.model_infer(with_token(bad)).await.unwrap_err().code(), Code::InvalidArgument);
    let mut other = image();
    other.model_name = "nobody".into();
    assert_eq!(client.model_infer(with_token(other)).await.unwrap_err().code(), Code::NotFound);
    let held = running.server.app().scheduler.admit(0, 2).unwrap();
    assert_eq!(client.model_infer(with_token(image())).await.unwrap_err().code(), Code::ResourceExhausted);
    drop(held);
    let mut hurried = image();
    let now = InferParameter { parameter_choice: Some(infer_parameter::ParameterChoice::Int64Param(1)) };
    hurried.parameters.insert("timeout".into(), now);
    let late = client.model_infer(with_token(hurried)).await;
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded, "a microsecond is too short");
}
