//! Client certificates (an authority that issues, corrupts and revokes them) and connections that stay open.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{net::TcpStream, task::JoinSet};
use wicketgate::internals::{clock, read_bounded};

use super::{Answer, DEADLINE, Gate, call::Connector, harness::Directory};

const HOUR: i64 = 3600;

/// A certificate authority for clients.
pub(crate) struct CertificateAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A client's certificate and key.
pub(crate) struct ClientCertificate {
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    serial: SerialNumber,
}

/// A certificate before it is signed.
pub(crate) struct Draft(CertificateParams);

/// From 1970 until so many seconds from now.
fn until(seconds: i64) -> Duration {
    Duration::from_secs((clock::now().as_second() + seconds).unsigned_abs())
}

impl CertificateAuthority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, uuid::Uuid::now_v7().to_string());
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Puts its certificate where the configuration says.
    pub(crate) fn write(&self, directory: &Directory, name: &str) {
        directory.write(name, self.issuer.pem());
    }

    pub(crate) fn issue(&self, draft: Draft) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        ClientCertificate::new(draft.0.clone(), draft.0.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Writes the list of these revoked ones; it ends in so many seconds.
    pub(crate) fn revoke(&self, directory: &Directory, name: &str, revoked: &[&ClientCertificate], ends: i64) {
        let revoked = revoked.iter().map(|shown| RevokedCertParams {
            serial_number: shown.serial.clone(),
            revocation_time: date_time_ymd(1970, 1, 1) + until(-HOUR),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(1970, 1, 1) + until(-2 * HOUR),
            next_update: date_time_ymd(1970, 1, 1) + until(ends),
            crl_number: SerialNumber::from(u64::try_from(clock::now().as_millisecond()).unwrap()),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        // beside, then renamed: a half-written list is no list
        directory.write("next.crl", list.signed_by(&self.issuer).unwrap().pem().unwrap());
        std::fs::rename(directory.join("next.crl"), directory.join(name)).unwrap();
    }
}

impl Draft {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.serial_number = Some(SerialNumber::from(uuid::Uuid::now_v7().as_bytes()[8..].to_vec()));
        params.use_authority_key_identifier_extension = true;
        params.not_before = date_time_ymd(1970, 1, 1) + until(-HOUR);
        params.not_after = date_time_ymd(1970, 1, 1) + until(HOUR);
        Self(params)
    }

    pub(crate) fn spiffe(id: &str) -> Self {
        Self::new().uri(id)
    }

    pub(crate) fn uri(mut self, uri: &str) -> Self {
        self.0.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        self
    }

    pub(crate) fn dns(mut self, name: &str) -> Self {
        self.0.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        self
    }

    /// It ends in so many seconds.
    pub(crate) fn ends(mut self, seconds: i64) -> Self {
        self.0.not_after = date_time_ymd(1970, 1, 1) + until(seconds);
        self
    }

    pub(crate) fn self_signed(self) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        ClientCertificate::new(self.0.clone(), self.0.self_signed(&key).unwrap(), key)
    }
}

impl ClientCertificate {
    fn new(params: CertificateParams, certificate: rcgen::Certificate, key: KeyPair) -> Self {
        let chain = vec![certificate.der().clone()];
        let pem = certificate.pem();
        let key_pem = key.serialize_pem();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Self { pem, key_pem, chain, key, serial: params.serial_number.unwrap() }
    }

    /// What `x5t#S256` of a token bound to it holds.
    pub(crate) fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, &self.chain[0]))
    }

    /// The gate's first listener for a client that shows this.
    pub(crate) fn door(&self, gate: &Gate, alpn: &[u8]) -> Connector {
        let mut config = ClientConfig::clone(&gate.pki.client(alpn));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.key).unwrap();
        let certified = CertifiedKey::new(self.chain.clone(), key);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Connector { address: gate.address(), tls: Some(Arc::new(config)) }
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A connection that stays open from one request to the next.
pub(crate) struct Line {
    sender: Sender,
    port: u16,
    /// Whether the handshake was a whole one, with nothing remembered of an earlier one.
    pub(crate) whole: bool,
    _driver: JoinSet<()>,
}

impl Line {
    /// Connects; an error is what the gate said in the handshake, or the socket's.
    pub(crate) async fn open(door: &Connector) -> Result<Self, std::io::Error> {
        let config = door.tls.clone().expect("a line is for TLS");
        let http2 = config.alpn_protocols == [b"h2".to_vec()];
        let stream = TcpStream::connect(door.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
        let whole = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Full);
        let stream = TokioIo::new(stream);
        let mut driver = JoinSet::new();
        let sender = if http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.map_err(std::io::Error::other)?;
            driver.spawn(async { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.map_err(std::io::Error::other)?;
            driver.spawn(async { drop(connection.await) });
            Sender::Http1(sender)
        };
        Ok(Self { sender, port: door.address.port(), whole, _driver: driver })
    }

    /// GET; an error is a connection that the gate broke off.
    pub(crate) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, std::io::Error> {
        let exchange = async {
            let mut request = Request::get(match self.sender {
                Sender::Http1(_) => path.to_owned(),
                Sender::Http2(_) => format!("https://localhost:{}{path}", self.port),
            });
            if let Sender::Http1(_) = self.sender {
                request = request.header("host", format!("localhost:{}", self.port));
            }
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::default()).unwrap();
            let answer = match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Http2(sender) => sender.send_request(request).await?,
            };
            Ok::<_, hyper::Error>(answer)
        };
        let answer =
            tokio::time::timeout(DEADLINE, exchange).await.expect("no answer").map_err(std::io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body = read_bounded(body, 1 << 20, DEADLINE).await.expect("the answer breaks off");
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// Whether the gate turns this client away before it can ask anything.
pub(crate) async fn handshake_fails(door: &Connector) -> bool {
    match Line::open(door).await {
        // in TLS 1.3 a client has finished its handshake before the server has looked at its certificate
        Ok(mut line) => line.get("/exporters/app/metrics", &[]).await.is_err(),
        Err(_) => true,
    }
}
