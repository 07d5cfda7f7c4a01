//! The services' handlers.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::log::Call;
use crate::proto::echo::echo_server::Echo;
use crate::proto::echo::{EchoReply, EchoRequest};
use crate::proto::login::login_service_server::LoginService;
use crate::proto::login::{Login, LoginReply};
use crate::proto::search::search_service_server::SearchService;
use crate::proto::search::{SearchReply, SearchRequest};

/// All services.
#[derive(Debug, Clone, Copy)]
pub struct Services;

#[tonic::async_trait]
impl SearchService for Services {
    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<SearchReply>, Status> {
        let mut call = Call::start("/search.SearchService/Search", &request);
        let request = request.into_inner();
        call.message(&request, "search.SearchRequest");
        call.end(Ok(()));
        let results = vec![format!("first page about {}", request.query)];
        Ok(Response::new(SearchReply { results, total: 1 }))
    }
}

#[tonic::async_trait]
impl LoginService for Services {
    async fn login(&self, request: Request<Login>) -> Result<Response<LoginReply>, Status> {
        let mut call = Call::start("/login.LoginService/Login", &request);
        let request = request.into_inner();
        call.message(&request, "login.Login");
        call.end(Ok(()));
        Ok(Response::new(LoginReply { ok: true, token: format!("token of {}", request.user) }))
    }
}

/// What a call of the echo service has seen, and its answers.
struct Answers {
    call: Call,
    received_bytes: u64,
    index: u32,
}

impl Answers {
    fn new<T>(method: &'static str, request: &Request<T>) -> Self {
        Self { call: Call::start(method, request), received_bytes: 0, index: 0 }
    }

    fn take(&mut self, message: &EchoRequest) {
        self.call.message(message, "echo.EchoRequest");
        self.received_bytes += message.payload.len() as u64;
    }

    async fn reply(&mut self, to: &EchoRequest) -> Result<EchoReply, Status> {
        if to.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(to.delay_ms.into())).await;
        }
        if to.fail_code != 0 {
            return Err(Status::new(Code::from_i32(to.fail_code), to.fail_message.clone()));
        }
        let index = self.index;
        self.index += 1;
        Ok(EchoReply {
            text: to.text.clone(),
            payload: vec![0; to.reply_bytes as usize],
            index,
            received: u32::try_from(self.call.messages()).unwrap_or(u32::MAX),
            received_bytes: self.received_bytes,
            request: to.reflect.then(|| to.clone()),
        })
    }

    async fn one(&mut self, to: &EchoRequest) -> Result<Response<EchoReply>, Status> {
        let reply = self.reply(to).await;
        self.call.end(reply.as_ref().map(|_| ()));
        Ok(Response::new(reply?))
    }

    /// Sends the answers to one message; false once the call is over.
    async fn stream(&mut self, to: &EchoRequest, out: &mpsc::Sender<Result<EchoReply, Status>>) -> bool {
        for _ in 0..to.replies.max(1) {
            let reply = self.reply(to).await;
            if let Err(status) = &reply {
                self.call.end(Err(status));
            }
            let failed = reply.is_err();
            if out.send(reply).await.is_err() || failed {
                return false;
            }
        }
        true
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Services {
    type ServerStreamStream = Replies;
    type BidiStream = Replies;

    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let mut answers = Answers::new("/echo.Echo/Unary", &request);
        let message = request.into_inner();
        answers.take(&message);
        answers.one(&message).await
    }

    async fn slow(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let mut answers = Answers::new("/echo.Echo/Slow", &request);
        let mut message = request.into_inner();
        answers.take(&message);
        if message.delay_ms == 0 {
            message.delay_ms = 1000;
        }
        answers.one(&message).await
    }

    async fn client_stream(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<EchoReply>, Status> {
        let mut answers = Answers::new("/echo.Echo/ClientStream", &request);
        let mut messages = request.into_inner();
        let mut last = EchoRequest::default();
        loop {
            match messages.message().await {
                Ok(Some(message)) => {
                    answers.take(&message);
                    last = message;
                }
                Ok(None) => return answers.one(&last).await,
                Err(status) => {
                    answers.call.end(Err(&status));
                    return Err(status);
                }
            }
        }
    }

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Replies>, Status> {
        let mut answers = Answers::new("/echo.Echo/ServerStream", &request);
        let message = request.into_inner();
        answers.take(&message);
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            if answers.stream(&message, &sender).await {
                answers.call.end(Ok(()));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn bidi(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Replies>, Status> {
        let mut answers = Answers::new("/echo.Echo/Bidi", &request);
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                match messages.message().await {
                    Ok(Some(message)) => {
                        answers.take(&message);
                        if !answers.stream(&message, &sender).await {
                            return;
                        }
                    }
                    Ok(None) => return answers.call.end(Ok(())),
                    Err(status) => {
                        answers.call.end(Err(&status));
                        // The caller may be gone: then nobody takes it.
                        let _ = sender.send(Err(status)).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
