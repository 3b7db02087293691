//! HTTP transport of `openidconnect`: the crate builds and reads OAuth 2.0 messages, [`Client`] carries them.
//!
//! Promises: every exchange has the deadline and the size bound of a token endpoint; no redirect is followed. The caller
//! checks each address (https, or http to loopback) when it reads it from provider metadata.

use std::time::Duration;

use bytes::Bytes;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

use super::{Client, ClientError};
use crate::http::{Body, BoxFuture};

/// For one exchange with a provider, its body included.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest response, in bytes. A token response has a few KiB.
const MAX_RESPONSE: usize = 1 << 20;

/// The transport of a request: `request_async(&OAuthTransport(&client))`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OAuthTransport<'a>(pub &'a Client);

impl<'c> AsyncHttpClient<'c> for OAuthTransport<'_> {
    type Error = ClientError;
    type Future = BoxFuture<'c, Result<HttpResponse, ClientError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let request = request.map(|body| Body::Full(Bytes::from(body)));
            Ok(self.0.fetch(request, MAX_RESPONSE, DEADLINE).await?.map(Vec::from))
        })
    }
}
