//! Serving a stand-in on loopback.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::faults::Trouble;

/// A server on a free port of loopback; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves `router` on a free port.
    pub async fn start(router: Router) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "a stand-in stopped serving");
            }
        });
        Ok(Self { address, task })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A response whose connection breaks before it is complete.
pub fn broken() -> Response {
    let cut = stream::iter([Err::<Vec<u8>, _>(std::io::Error::other(
        "the connection breaks",
    ))]);
    let mut response = Response::new(Body::from_stream(cut));
    response.headers_mut().insert(
        "content-length",
        axum::http::HeaderValue::from_static("1000"),
    );
    response
}

/// Lets a call meet its trouble: `work` does what the call asks for and answers.
pub async fn meet<F: Future<Output = Response>>(trouble: Option<Trouble>, work: F) -> Response {
    let answer = |status: u16, body: String, retry_after: Option<u32>| {
        let mut builder = Response::builder()
            .status(status)
            .header("content-type", "application/json");
        if let Some(seconds) = retry_after {
            builder = builder.header("retry-after", seconds);
        }
        builder.body(Body::from(body)).unwrap_or_else(|_| broken())
    };
    match trouble {
        None => work.await,
        Some(Trouble::Status {
            status,
            body,
            retry_after,
        }) => answer(status, body, retry_after),
        Some(Trouble::DropBefore) => broken(),
        Some(Trouble::DropAfter) => {
            work.await;
            broken()
        }
        Some(Trouble::StatusAfter { status, body }) => {
            work.await;
            answer(status, body, None)
        }
        Some(Trouble::Garbage) => answer(200, "<html>not what you asked for".into(), None),
    }
}
