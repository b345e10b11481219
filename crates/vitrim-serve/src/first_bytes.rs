//! A stream whose first bytes must come in time.
//!
//! hyper limits the time of a request's head once it knows the version of HTTP. To tell the version, it waits for up to 24
//! bytes without a limit, so that a client that sends fewer, or nothing, would stay connected for ever.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes after which the version of HTTP is known: the preface of HTTP/2.
const PREFACE: usize = 24;

/// A stream that breaks off if [`PREFACE`] bytes have not come by a deadline, and nothing was answered.
pub struct FirstBytes<S> {
    stream: S,
    deadline: Option<Pin<Box<Sleep>>>,
    read: usize,
}

impl<S> FirstBytes<S> {
    /// `stream`, whose first bytes must come within `limit`.
    pub fn within(limit: Duration, stream: S) -> Self {
        FirstBytes { stream, deadline: Some(Box::pin(sleep(limit))), read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match (Pin::new(&mut this.stream).poll_read(cx, buf), &mut this.deadline) {
            (Poll::Pending, Some(deadline)) => {
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
            (polled, _) => {
                this.read += buf.filled().len() - before;
                if this.read >= PREFACE {
                    this.deadline = None;
                }
                polled
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.deadline = None;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.deadline = None;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
