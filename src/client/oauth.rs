//! The adapter between the `oauth2` crate and our way out: it builds and reads OAuth messages, [`Client`] carries them.
//!
//! Promises: every exchange has the deadline and the size bound of a token endpoint, and no redirect is followed.
//! Whether an address may be asked at all (https, or http to loopback) is for whoever read it from a discovery document
//! to say.

use std::time::Duration;

use bytes::Bytes;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};

use super::{Client, ClientError};
use crate::http::{Body, BoxFuture};

/// For one exchange with a provider, its body included.
const DEADLINE: Duration = Duration::from_secs(10);
/// A token response is a few KiB; a JWKS, which comes the same way where a library fetches it, may be 1 MiB.
const LIMIT: usize = 1 << 20;

/// Lets `oauth2` send by this client: `request_async(&Messenger(&client))`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Messenger<'a>(pub &'a Client);

impl<'c> AsyncHttpClient<'c> for Messenger<'_> {
    type Error = ClientError;
    type Future = BoxFuture<'c, Result<HttpResponse, ClientError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let request = request.map(|body| Body::Full(Bytes::from(body)));
            Ok(self.0.fetch(request, LIMIT, DEADLINE).await?.map(Vec::from))
        })
    }
}
