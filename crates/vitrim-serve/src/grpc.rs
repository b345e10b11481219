//! gRPC: the Open Inference Protocol, with the services of health and reflection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Method;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::Instrument;

use crate::app::App;
use crate::engine::SharedEngine;
use crate::points::Limits;
use crate::protocol::{self, Data, Described, Infer, Output, Tensor, Values};
use crate::refusal::Refusal;
use crate::repository;
use crate::scheduler::Total;
use crate::spans;

/// What the .proto file generates.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod inference {
    tonic::include_proto!("inference");
}

use inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use inference::infer_parameter::ParameterChoice;
use inference::model_infer_response::InferOutputTensor;
use inference::model_metadata_response::TensorMetadata;
use inference::repository_index_response::ModelIndex;
use inference::*;

/// The .proto file, compiled, for reflection.
const DESCRIBED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/open_inference.bin"));

/// The route of `ModelInfer` in metrics and spans.
const INFER: &str = "grpc/ModelInfer";

/// The services, and the reporter of health.
///
/// # Errors
/// Never: the description is the one that was compiled.
pub fn router(app: &Arc<App>) -> Result<(Router, HealthReporter), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let service = GrpcInferenceServiceServer::new(Service { app: Arc::clone(app) })
        .max_decoding_message_size(app.config.max_body)
        .max_encoding_message_size(usize::MAX)
        .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
        .send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIBED)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(service)
        .add_service(health)
        .add_service(described().build_v1()?)
        .add_service(described().build_v1alpha()?);
    Ok((routes.into_axum_router(), reporter))
}

/// Tells the service of health whether the server is ready, whenever that changes.
pub async fn report(app: Arc<App>, reporter: HealthReporter) {
    let mut changed = app.changed();
    loop {
        let status = if app.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status("", status).await;
        reporter.set_service_status("inference.GRPCInferenceService", status).await;
        if changed.changed().await.is_err() {
            return;
        }
    }
}

struct Service {
    app: Arc<App>,
}

impl Service {
    fn authorise(&self, metadata: &MetadataMap) -> Result<(), Refusal> {
        let value = metadata.get("authorization").map(|value| value.as_bytes());
        if self.app.is_authorised(value) {
            return Ok(());
        }
        let line = "the bearer token is missing or wrong; send the metadata authorization: Bearer TOKEN";
        Err(Refusal::Unauthorized(line.into()))
    }

    /// The model called `name`, and its engine, which must be of `version` if one is given.
    fn engine(&self, name: &str, version: &str) -> Result<(usize, SharedEngine), Refusal> {
        let index = self.app.repository.find(Some(name))?;
        let engine = self.app.repository.engine(index)?;
        if !version.is_empty() && version != engine.version.to_string() {
            let serving = engine.version;
            return Err(Refusal::NotFound(format!(
                "model {name} has no version {version}; version {serving} serves"
            )));
        }
        Ok((index, engine))
    }

    async fn answer(
        &self,
        request: Request<ModelInferRequest>,
        arrived: Instant,
    ) -> Result<ModelInferResponse, Refusal> {
        self.authorise(request.metadata())?;
        let deadline = timeout(request.metadata())?;
        let request = request.into_inner();
        let (index, engine) = self.engine(&request.model_name, &request.model_version)?;
        self.app.check(index)?;
        let raw = !request.raw_input_contents.is_empty();
        let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = request;
        if raw && raw_input_contents.len() != inputs.len() {
            return Err(Refusal::Invalid(format!(
                "{} inputs and {} raw contents; give one for each",
                inputs.len(),
                raw_input_contents.len()
            )));
        }
        let mut contents = raw_input_contents.into_iter();
        let tensor = |input: model_infer_request::InferInputTensor| Tensor {
            data: match (contents.next(), input.contents) {
                (Some(raw), _) => Data::Raw(raw),
                (None, Some(contents)) if !contents.bytes_contents.is_empty() => {
                    Data::Elements(contents.bytes_contents)
                }
                (None, contents) => Data::Numbers(contents.unwrap_or_default().fp32_contents),
            },
            name: input.name,
            datatype: input.datatype,
            shape: input.shape,
        };
        let asked = Infer {
            inputs: inputs.into_iter().map(tensor).collect(),
            outputs: outputs.into_iter().map(|output| output.name).collect(),
            limits: Limits {
                max_loss: number(&parameters, "max_drop")?,
                gmacs: number(&parameters, "gmacs")?,
            },
            // Of a deadline and the parameter, the earlier one.
            timeout: match number(&parameters, "timeout")?.filter(|us| *us > 0.0) {
                Some(us) => {
                    let stated = Duration::try_from_secs_f64(us / 1e6).unwrap_or(Duration::MAX);
                    Some(deadline.map_or(stated, |deadline| deadline.min(stated)))
                }
                None => deadline,
            },
        };
        let (outputs, served) = protocol::infer(&self.app, index, &engine, asked, arrived).await?;
        let name = self.app.repository.slots()[index].name.clone();
        let point = &engine.ladder.points[Total::of(&served).point];
        let text =
            |text: String| InferParameter { parameter_choice: Some(ParameterChoice::StringParam(text)) };
        let mut parameters = HashMap::from([("operating_point".to_owned(), text(point.name.clone()))]);
        if let Some(bound) = &point.certified {
            let at_most =
                InferParameter { parameter_choice: Some(ParameterChoice::DoubleParam(bound.at_most)) };
            parameters.insert("certified_loss".to_owned(), at_most);
        }
        let mut raw_output_contents = Vec::new();
        let outputs = outputs.into_iter().map(|output| {
            if raw {
                raw_output_contents.push(output.values.raw().into());
            }
            described(output, raw)
        });
        Ok(ModelInferResponse {
            model_name: name,
            model_version: engine.version.to_string(),
            id,
            parameters,
            outputs: outputs.collect(),
            raw_output_contents,
        })
    }
}

/// An output; its values are left out if they go in the raw contents.
fn described(output: Output, raw: bool) -> InferOutputTensor {
    let datatype = output.values.datatype().to_owned();
    let contents = match output.values {
        _ if raw => None,
        Values::Numbers(fp32_contents) => Some(InferTensorContents { fp32_contents, ..Default::default() }),
        Values::Texts(texts) => {
            let bytes_contents = texts.into_iter().map(Into::into).collect();
            Some(InferTensorContents { bytes_contents, ..Default::default() })
        }
    };
    InferOutputTensor {
        name: output.name.to_owned(),
        datatype,
        shape: output.shape,
        parameters: HashMap::new(),
        contents,
    }
}

/// The parameter `name` as a number.
fn number(parameters: &HashMap<String, InferParameter>, name: &str) -> Result<Option<f64>, Refusal> {
    let Some(choice) = parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref()) else {
        return Ok(None);
    };
    match choice {
        ParameterChoice::DoubleParam(value) => Ok(Some(*value)),
        ParameterChoice::Int64Param(value) => Ok(Some(*value as f64)),
        ParameterChoice::Uint64Param(value) => Ok(Some(*value as f64)),
        ParameterChoice::StringParam(text) => {
            let number = text.parse().ok();
            number
                .map(Some)
                .ok_or_else(|| Refusal::Invalid(format!("parameter {name}: {text} is not a number")))
        }
        ParameterChoice::BoolParam(_) => Err(Refusal::Invalid(format!("parameter {name}: not a number"))),
    }
}

/// The deadline of a call, `grpc-timeout`: up to eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = metadata.get("grpc-timeout") else { return Ok(None) };
    let read = |text: &str| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
        match unit {
            "H" => Some(Duration::from_secs(3600 * number)),
            "M" => Some(Duration::from_secs(60 * number)),
            "S" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_millis(number)),
            "u" => Some(Duration::from_micros(number)),
            "n" => Some(Duration::from_nanos(number)),
            _ => None,
        }
    };
    let read = value.to_str().ok().and_then(read);
    read.map(Some).ok_or_else(|| Refusal::Invalid("grpc-timeout is no length of time".into()))
}

fn tensors(described: Vec<Described>) -> Vec<TensorMetadata> {
    let tensor = |tensor: Described| TensorMetadata {
        name: tensor.name.to_owned(),
        datatype: tensor.datatype.to_owned(),
        shape: tensor.shape,
    };
    described.into_iter().map(tensor).collect()
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.app.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        self.authorise(request.metadata())?;
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = match self.engine(&name, &version) {
            Ok(_) => true,
            Err(Refusal::Unavailable(_)) => false,
            Err(refusal) => return Err(refusal.into()),
        };
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        request: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        self.authorise(request.metadata())?;
        Ok(Response::new(ServerMetadataResponse {
            name: "vitrim".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: protocol::EXTENSIONS.map(ToOwned::to_owned).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        self.authorise(request.metadata())?;
        let ModelMetadataRequest { name, version } = request.into_inner();
        let (_, engine) = self.engine(&name, &version)?;
        Ok(Response::new(ModelMetadataResponse {
            name,
            versions: vec![engine.version.to_string()],
            platform: protocol::PLATFORM.into(),
            inputs: tensors(protocol::inputs(&engine)),
            outputs: tensors(protocol::outputs(&engine)),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let arrived = Instant::now();
        let span = spans::request(&Method::POST, Some(INFER), request.metadata().as_ref());
        let answer = self.answer(request, arrived).instrument(span.clone()).await;
        let status = answer.as_ref().map_or_else(Refusal::status, |_| 200);
        spans::ended(&span, status);
        self.app.metrics.request(INFER, status, arrived.elapsed());
        Ok(Response::new(answer?))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        self.authorise(request.metadata())?;
        let only_ready = request.into_inner().ready;
        let entries = repository::index(&self.app.repository).into_iter();
        let entries = entries.filter(|entry| !only_ready || entry.state == repository::AVAILABLE);
        let models = entries.map(|entry| ModelIndex {
            name: entry.name,
            version: entry.version,
            state: entry.state.to_owned(),
            reason: entry.reason,
        });
        Ok(Response::new(RepositoryIndexResponse { models: models.collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        self.authorise(request.metadata())?;
        self.app.reload(&request.into_inner().model_name).await?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        self.authorise(request.metadata())?;
        self.app.unload(&request.into_inner().model_name)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            timeout(&metadata)
        };
        assert_eq!(read("100m"), Ok(Some(Duration::from_millis(100))));
        assert_eq!(read("99999999n"), Ok(Some(Duration::from_nanos(99_999_999))));
        assert_eq!(read("2H"), Ok(Some(Duration::from_secs(7200))));
        for bad in ["", "m", "100", "123456789S", "-1S", "5x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(timeout(&MetadataMap::new()), Ok(None));
    }
}
