//! Emulator of an OIDC issuer: discovery, keys, and tokens for its clients.
//!
//! Promises: RFC 8414 metadata, RFC 7517 keys, the client-credentials grant of RFC 6749 section 4.4 with JWT access
//! tokens of RFC 9068. Its subjects are its clients; what a client may do is in the `roles` claim.

mod keys;
mod token;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, Response, StatusCode, header};
use jsonwebtoken::Algorithm;
use serde_json::json;

pub(crate) use keys::KeyRing;
pub(crate) use token::{LIFETIME, Token};

use super::{
    error::DemoError,
    pki::Leaf,
    server::{Handler, ReceivedRequest, Server, json, respond},
};
use crate::http::{Body, BoxFuture};

/// A running issuer.
pub struct Issuer {
    server: Server,
    shared: Arc<Shared>,
}

/// Settings of an issuer.
pub struct Builder {
    port: u16,
    leaf: Option<Leaf>,
    audience: String,
    jwks_cache_control: &'static str,
    clients: Vec<Client>,
}

struct Client {
    id: String,
    secret: String,
    roles: Vec<String>,
}

struct Shared {
    url: std::sync::OnceLock<String>,
    keys: KeyRing,
    audience: String,
    jwks_cache_control: &'static str,
    clients: Vec<Client>,
}

impl Issuer {
    /// An issuer on any free port, in clear, for the audience `wicketgate`, with no clients.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            port: 0,
            leaf: None,
            audience: "wicketgate".to_owned(),
            jwks_cache_control: "max-age=300",
            clients: Vec::new(),
        }
    }

    /// A valid RS256 access token for `subject`; the caller may change it before it mints it.
    #[must_use]
    pub fn token(&self, subject: &str) -> Token {
        self.shared.token(subject)
    }

    /// A minter of tokens for `subject`, for a task that renews them.
    #[must_use]
    pub fn minter(&self, subject: &str) -> Minter {
        Minter { shared: self.shared.clone(), subject: subject.to_owned() }
    }

    /// Its keys, to verify with, rotate and withdraw.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.shared.keys
    }

    /// A new RS256 key that signs from now on; the old ones stay published. Returns its `kid`.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn rotate(&self) -> Result<String, DemoError> {
        self.shared.keys.add(Algorithm::RS256)
    }

    /// Its URL, the `iss` of its tokens.
    #[must_use]
    pub fn url(&self) -> &str {
        self.shared.url()
    }

    /// The server, with the requests that it recorded.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Closes the socket and every connection.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// Makes tokens for one subject; see [`Issuer::minter`].
pub struct Minter {
    shared: Arc<Shared>,
    subject: String,
}

impl Minter {
    /// A valid RS256 access token, issued now; the caller may change it before it mints it.
    #[must_use]
    pub fn token(&self) -> Token {
        self.shared.token(&self.subject)
    }
}

impl Builder {
    /// Listens on this port of 127.0.0.1.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Speaks TLS with this certificate.
    #[must_use]
    pub fn tls(mut self, leaf: Leaf) -> Self {
        self.leaf = Some(leaf);
        self
    }

    /// The `aud` of its tokens unless the client requests another.
    #[must_use]
    pub fn audience(mut self, audience: &str) -> Self {
        audience.clone_into(&mut self.audience);
        self
    }

    /// The `Cache-Control` of its keys; `max-age=300` unless called.
    #[must_use]
    pub fn jwks_cache_control(mut self, value: &'static str) -> Self {
        self.jwks_cache_control = value;
        self
    }

    /// A client that gets tokens with these roles from `/token`.
    #[must_use]
    pub fn client(mut self, id: &str, secret: &str, roles: &[&str]) -> Self {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        self.clients.push(Client { id: id.to_owned(), secret: secret.to_owned(), roles });
        self
    }

    /// Makes an RS256 and an ES256 key and listens.
    ///
    /// # Errors
    /// When the port is taken or a key cannot be made.
    pub async fn start(self) -> Result<Issuer, DemoError> {
        let keys = KeyRing::default();
        keys.add(Algorithm::RS256)?;
        keys.add(Algorithm::ES256)?;
        let shared = Arc::new(Shared {
            url: std::sync::OnceLock::new(),
            keys,
            audience: self.audience,
            jwks_cache_control: self.jwks_cache_control,
            clients: self.clients,
        });
        let server = Server::start(self.port, self.leaf.as_ref(), shared.clone()).await?;
        shared.url.get_or_init(|| server.url());
        Ok(Issuer { server, shared })
    }
}

impl Handler for Shared {
    fn handle(self: Arc<Self>, request: ReceivedRequest) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            match (&request.method, request.path.as_str()) {
                (&Method::GET, "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server") => {
                    self.metadata()
                }
                (&Method::GET, "/jwks") => self.jwks_response(),
                (&Method::POST, "/token") => self.token_response(&request),
                (_, "/token" | "/jwks") => respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "not this method\n"),
                _ => respond(StatusCode::NOT_FOUND, "text/plain", "no such page\n"),
            }
        })
    }
}

impl Shared {
    fn url(&self) -> &str {
        self.url.get().map_or("", String::as_str)
    }

    fn token(&self, subject: &str) -> Token {
        Token::new(self.keys.clone(), self.url(), subject, &self.audience)
    }

    fn metadata(&self) -> Response<Body> {
        let url = self.url();
        json(
            StatusCode::OK,
            &json!({
                "issuer": url,
                "jwks_uri": format!("{url}/jwks"),
                "token_endpoint": format!("{url}/token"),
                "authorization_endpoint": format!("{url}/authorize"),
                "grant_types_supported": ["client_credentials"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256", "ES256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "claims_supported": ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "roles"],
            }),
        )
    }

    fn jwks_response(&self) -> Response<Body> {
        let mut response = json(StatusCode::OK, &self.keys.jwks());
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(self.jwks_cache_control));
        response
    }

    fn token_response(&self, request: &ReceivedRequest) -> Response<Body> {
        let form = request.form();
        let field = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        let (id, secret) =
            basic(request).unwrap_or_else(|| (field("client_id").to_owned(), field("client_secret").to_owned()));
        let Some(client) = self.clients.iter().find(|client| client.id == id && client.secret == secret) else {
            return invalid_client();
        };
        if field("grant_type") != "client_credentials" {
            return oauth_error(StatusCode::BAD_REQUEST, "unsupported_grant_type", "only client_credentials");
        }
        // RFC 8707's `resource`, or `audience` as many providers call it
        let audience = [field("resource"), field("audience"), &self.audience].into_iter().find(|text| !text.is_empty());
        let roles: Vec<&str> = client.roles.iter().map(String::as_str).collect();
        let token = self
            .token(&client.id)
            .audience(audience.unwrap_or_default())
            .roles(&roles)
            .claim("client_id", client.id.as_str())
            .claim("scope", field("scope"));
        match token.mint() {
            Err(error) => oauth_error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &error.to_string()),
            Ok(token) => no_store(json(
                StatusCode::OK,
                &json!({ "access_token": token, "token_type": "Bearer", "expires_in": LIFETIME.as_secs() }),
            )),
        }
    }
}

/// RFC 6749 section 2.3.1: id and secret are form-encoded before they go into Basic.
fn basic(request: &ReceivedRequest) -> Option<(String, String)> {
    let decoded = STANDARD.decode(request.header("authorization").strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    let plain = |text: &str| {
        let one_field = text.replace('&', "%26").replace('=', "%3D");
        let mut pairs = url::form_urlencoded::parse(one_field.as_bytes());
        pairs.next().map_or_else(String::new, |(name, _)| name.into_owned())
    };
    Some((plain(id), plain(secret)))
}

fn invalid_client() -> Response<Body> {
    let mut response = oauth_error(StatusCode::UNAUTHORIZED, "invalid_client", "no such client or another secret");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"issuer\""));
    response
}

/// RFC 6749 section 5.2; Google's STS speaks it too.
pub(crate) fn oauth_error(status: StatusCode, error: &str, description: &str) -> Response<Body> {
    no_store(json(status, &json!({ "error": error, "error_description": description })))
}

/// RFC 6749 section 5.1: "The authorization server MUST include the HTTP "Cache-Control" response header field".
fn no_store(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
