//! The body of an answer that keeps its connection in hand until it is sent.

use super::connection_limiter::ActiveRequest;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

#[derive(Debug)]
pub struct Sending<B> {
    body: B,
    in_hand: Option<ActiveRequest>,
}

impl<B> Sending<B> {
    pub fn new(body: B, in_hand: ActiveRequest) -> Self {
        Self { body, in_hand: Some(in_hand) }
    }
}

impl<B: Body + Unpin> Body for Sending<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.in_hand = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
