//! gRPC's interoperability service.

use std::pin::Pin;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Request, Response, Status, Streaming};
use tower::{Layer, Service, ServiceExt};

use super::log::Call;
use super::services::Services;
use crate::proto::testing::test_service_server::TestService;
use crate::proto::testing::{
    EchoStatus, Empty, Payload, SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};

type Reply<T> = Result<Response<T>, Status>;
type Output = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;
type Sender = mpsc::Sender<Result<StreamingOutputCallResponse, Status>>;

fn payload(size: i32) -> Option<Payload> {
    Some(Payload { r#type: 0, body: vec![0; usize::try_from(size).unwrap_or(0)] })
}

/// Ends a call as its request says.
fn refuse(status: Option<&EchoStatus>) -> Result<(), Status> {
    status.map_or(Ok(()), |status| Err(Status::new(Code::from_i32(status.code), status.message.clone())))
}

fn length(payload: Option<&Payload>) -> usize {
    payload.map_or(0, |payload| payload.body.len())
}

/// Sends the answers to one message; false once the call is over.
async fn answer(call: &mut Call, to: &StreamingOutputCallRequest, out: &Sender) -> bool {
    call.message(to, "grpc.testing.StreamingOutputCallRequest");
    if let Err(status) = refuse(to.response_status.as_ref()) {
        return fail(call, status, out).await;
    }
    for wanted in &to.response_parameters {
        tokio::time::sleep(Duration::from_micros(wanted.interval_us.try_into().unwrap_or(0))).await;
        if out.send(Ok(StreamingOutputCallResponse { payload: payload(wanted.size) })).await.is_err() {
            return false;
        }
    }
    true
}

async fn fail(call: &mut Call, status: Status, out: &Sender) -> bool {
    call.end(Err(&status));
    // The caller may be gone: then nobody takes it.
    let _ = out.send(Err(status)).await;
    false
}

#[tonic::async_trait]
impl TestService for Services {
    type StreamingOutputCallStream = Output;
    type FullDuplexCallStream = Output;

    async fn empty_call(&self, request: Request<Empty>) -> Reply<Empty> {
        let mut call = Call::start("/grpc.testing.TestService/EmptyCall", &request);
        call.message(request.get_ref(), "grpc.testing.Empty");
        call.end(Ok(()));
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Reply<SimpleResponse> {
        let mut call = Call::start("/grpc.testing.TestService/UnaryCall", &request);
        let request = request.into_inner();
        call.message(&request, "grpc.testing.SimpleRequest");
        let wanted = refuse(request.response_status.as_ref());
        call.end(wanted.as_ref().copied());
        wanted?;
        Ok(Response::new(SimpleResponse { payload: payload(request.response_size), ..Default::default() }))
    }

    async fn streaming_output_call(&self, request: Request<StreamingOutputCallRequest>) -> Reply<Output> {
        let mut call = Call::start("/grpc.testing.TestService/StreamingOutputCall", &request);
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            if answer(&mut call, request.get_ref(), &sender).await {
                call.end(Ok(()));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Reply<StreamingInputCallResponse> {
        let mut call = Call::start("/grpc.testing.TestService/StreamingInputCall", &request);
        let mut messages = request.into_inner();
        let mut sum = 0;
        loop {
            match messages.message().await {
                Ok(Some(message)) => {
                    call.message(&message, "grpc.testing.StreamingInputCallRequest");
                    sum += length(message.payload.as_ref());
                }
                Ok(None) => break,
                Err(status) => {
                    call.end(Err(&status));
                    return Err(status);
                }
            }
        }
        call.end(Ok(()));
        let aggregated_payload_size = i32::try_from(sum).map_err(|_| Status::out_of_range("too many bytes"))?;
        Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size }))
    }

    async fn full_duplex_call(&self, request: Request<Streaming<StreamingOutputCallRequest>>) -> Reply<Output> {
        let mut call = Call::start("/grpc.testing.TestService/FullDuplexCall", &request);
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                match messages.message().await {
                    Ok(Some(message)) => {
                        if !answer(&mut call, &message, &sender).await {
                            return;
                        }
                    }
                    Ok(None) => return call.end(Ok(())),
                    Err(status) => {
                        fail(&mut call, status, &sender).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Reply<Empty> {
        Err(Status::unimplemented("not here"))
    }
}

const INITIAL: HeaderName = HeaderName::from_static("x-grpc-test-echo-initial");
const TRAILING: HeaderName = HeaderName::from_static("x-grpc-test-echo-trailing-bin");

/// Gives back the metadata that the interoperability cases ask for. tonic's handlers cannot send trailers with OK.
#[derive(Debug, Clone, Copy)]
pub struct EchoMetadata;

impl<S> Layer<S> for EchoMetadata {
    type Service = Echoing<S>;

    fn layer(&self, inner: S) -> Echoing<S> {
        Echoing(inner)
    }
}

/// A service with [`EchoMetadata`].
#[derive(Debug, Clone)]
pub struct Echoing<S>(S);

impl<S> Service<http::Request<Body>> for Echoing<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let find = |name: &HeaderName| request.headers().get(name).cloned();
        let (initial, trailing): (Option<HeaderValue>, _) = (find(&INITIAL), find(&TRAILING));
        let next = self.0.clone();
        let ready = std::mem::replace(&mut self.0, next);
        Box::pin(async move {
            let mut response = ready.oneshot(request).await?;
            if let Some(value) = initial {
                response.headers_mut().insert(INITIAL, value);
            }
            // A response of headers alone has its status there, and no room for trailers.
            let Some(value) = trailing.filter(|_| !response.headers().contains_key("grpc-status")) else {
                return Ok(response);
            };
            let trailers = HeaderMap::from_iter([(TRAILING, value)]);
            Ok(response.map(|body| Body::new(body.with_trailers(async { Some(Ok(trailers)) }))))
        })
    }
}
