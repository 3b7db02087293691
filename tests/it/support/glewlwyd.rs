//! Debian's `glewlwyd` with a database of its own, configured through its API.
//!
//! It has the scope `metrics`, which needs a password, and issues tokens for [`AUDIENCE`]. A person's `roles` are in
//! the access token and the ID token; a client has its `scope` instead. `sub` is a number that glewlwyd chooses.

use std::{fs::File, net::SocketAddr, path::Path};

use http::{Method, StatusCode};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    Answer,
    peers::Client,
    person::{Page, Person, post_form},
    program::{Program, listening},
};

/// What to do when it is not there.
const HINT: &str = "run `tests/run`, which installs the suite's peers";
/// The schema and the first administrator, as Debian's package ships them.
const SCHEMA: &str = "/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3";
/// The audience of its access tokens.
pub(crate) const AUDIENCE: &str = "https://gate.example";
/// The scope that stands for what a machine may do.
pub(crate) const SCOPE: &str = "metrics";
/// Every person's; what it protects ends with the test.
const PASSWORD: &str = "a-password-of-the-suite";

/// What it signs with.
#[derive(Clone, Copy)]
pub(crate) enum Signing {
    Rs256,
    Es256,
}

/// A running glewlwyd.
pub(crate) struct Glewlwyd {
    pub(crate) issuer: String,
    base: String,
    /// Of access tokens and ID tokens, in seconds.
    lifetime: u32,
    administrator: Person,
    _program: Program,
}

impl Glewlwyd {
    /// Starts it with its files in `directory`.
    pub(crate) async fn start(directory: &Path) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let database = directory.join("glewlwyd.db");
        let config = directory.join("glewlwyd.conf");
        let schema = File::open(SCHEMA).unwrap_or_else(|e| panic!("glewlwyd is not installed ({e}): {HINT}"));
        let made = Command::new("sqlite3").arg(&database).stdin(schema).status().await;
        assert!(
            made.unwrap_or_else(|e| panic!("sqlite3 cannot be started ({e}): {HINT}")).success(),
            "the schema cannot be read"
        );
        std::fs::write(&config, configuration(address, &database)).unwrap();
        let mut command = Command::new("glewlwyd");
        command.arg(format!("--config-file={}", config.display()));
        let program = Program::start("glewlwyd", &mut command, HINT);
        listening("glewlwyd", address).await;

        let base = format!("http://{address}");
        let issuer = format!("{base}/api/oidc");
        let mut this = Self { issuer, base, lifetime: 300, administrator: Person::new(None), _program: program };
        // the first administrator of the shipped schema
        let login = json!({"username": "admin", "password": "password"});
        this.administer(Method::POST, "/auth/", Some(login)).await;
        this.know_property("user", "roles", false).await;
        this.know_property("client", "post_logout_redirect_uris", true).await;
        let scope = json!({
            "name": SCOPE, "display_name": SCOPE, "description": SCOPE, "password_required": true, "scheme": {},
        });
        this.administer(Method::POST, "/scope/", Some(scope)).await;
        let plugin = this.plugin(Signing::Rs256);
        this.administer(Method::POST, "/mod/plugin/", Some(plugin)).await;
        this
    }

    /// Signs with a new key; the old one is withdrawn.
    pub(crate) async fn rotate(&mut self, signing: Signing) {
        let plugin = self.plugin(signing);
        self.administer(Method::PUT, "/mod/plugin/oidc", Some(plugin)).await;
        self.administer(Method::PUT, "/mod/plugin/oidc/reset", None).await;
    }

    /// How long access tokens and ID tokens last from here on. It signs with a new key, too.
    pub(crate) async fn set_lifetime(&mut self, seconds: u32) {
        self.lifetime = seconds;
        self.rotate(Signing::Rs256).await;
    }

    /// A client that logs in as itself (client credentials). Its role is for the gate's rules to give.
    pub(crate) async fn machine(&mut self, client: &Client) {
        self.client(json!({
            "client_id": client.id, "client_secret": client.secret, "confidential": true, "scope": [SCOPE],
            "authorization_type": ["client_credentials"], "token_endpoint_auth_method": ["client_secret_basic"],
            "redirect_uri": [],
        }))
        .await;
    }

    /// A confidential client that people log in to. glewlwyd verifies no certificate of this suite, so `backchannel` is
    /// in clear.
    pub(crate) async fn web(&mut self, id: &str, secret: &str, gate: &str, backchannel: &str) {
        self.client(json!({
            "client_id": id, "client_secret": secret, "confidential": true, "scope": ["openid", SCOPE],
            "authorization_type": ["code", "refresh_token"], "token_endpoint_auth_method": ["client_secret_basic"],
            "redirect_uri": [format!("{gate}/callback")], "post_logout_redirect_uris": [format!("{gate}/")],
            "backchannel_logout_uri": backchannel, "backchannel_logout_session_required": "1",
        }))
        .await;
    }

    /// A public client at a terminal.
    pub(crate) async fn terminal(&mut self, id: &str) {
        self.client(json!({
            "client_id": id, "confidential": false, "scope": ["openid", SCOPE],
            "authorization_type": ["device_authorization", "code", "refresh_token"],
            "token_endpoint_auth_method": [], "redirect_uri": ["http://127.0.0.1/callback"],
        }))
        .await;
    }

    /// A person that can log in, with one role.
    pub(crate) async fn person(&mut self, name: &str, role: &str) {
        let person = json!({
            "username": name, "password": PASSWORD, "name": name, "email": format!("{name}@example.com"),
            "roles": role, "enabled": true, "scope": ["openid", SCOPE, "g_profile"],
        });
        self.administer(Method::POST, "/user/", Some(person)).await;
    }

    /// An access token of this client for [`AUDIENCE`].
    pub(crate) async fn client_token(&self, client: &Client) -> String {
        let login = format!("{}:{}", client.id, client.secret);
        let form = [("grant_type", "client_credentials"), ("scope", SCOPE), ("resource", AUDIENCE)];
        let answer = post_form(&format!("{}/token", self.issuer), Some(&login), &form).await;
        answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer:?}")).to_owned()
    }

    /// Goes to `url`, which leads to glewlwyd's login page, does there what the page's script does for `name`, and
    /// follows until a redirect would lead to `stop`.
    pub(crate) async fn log_in(&self, person: &mut Person, url: &str, name: &str, stop: &str) -> Page {
        let page = person.visit(url).await;
        assert!(page.url.path().ends_with("/login.html"), "not glewlwyd's login page: {page:?}");
        let login = json!({"username": name, "password": PASSWORD});
        let answer = person.json(Method::POST, &format!("{}/api/auth/", self.base), Some(&login)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let client = page.parameter("client_id").expect("the page names no client");
        let granted = json!({"scope": format!("openid {SCOPE}")});
        let grant = format!("{}/api/auth/grant/{client}/", self.base);
        let answer = person.json(Method::PUT, &grant, Some(&granted)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let back = page.parameter("callback_url").expect("the page names no way back");
        person.visit_until(&format!("{back}&g_continue"), stop).await
    }

    /// Says yes on glewlwyd's logout page, as its script does, and returns where that leads, if anywhere.
    pub(crate) async fn log_out(&self, person: &mut Person, page: &Page) -> Option<String> {
        assert_eq!(page.parameter("prompt").as_deref(), Some("end_session"), "not glewlwyd's logout page: {page:?}");
        let session = page.parameter("sid").expect("the page names no session");
        let answer = person.json(Method::DELETE, &format!("{}/session/{session}", self.issuer), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        page.parameter("callback_url")
    }

    async fn client(&mut self, mut client: Value) {
        client["enabled"] = true.into();
        client["name"] = client["client_id"].clone();
        self.administer(Method::POST, "/client/", Some(client)).await;
    }

    /// Lets the database of `module` hold a property that the schema does not know, as one value or a list.
    async fn know_property(&mut self, module: &str, property: &str, list: bool) {
        let path = format!("/mod/{module}/database");
        let mut settings = self.administer(Method::GET, &path, None).await.json();
        settings["parameters"]["data-format"][property] =
            json!({"multiple": list, "read": true, "write": true, "profile-read": true});
        self.administer(Method::PUT, &path, Some(settings)).await;
        self.administer(Method::PUT, &format!("{path}/reset"), None).await;
    }

    /// Its OpenID Connect plugin with a new key.
    fn plugin(&self, signing: Signing) -> Value {
        let (kind, key) = match signing {
            Signing::Rs256 => ("rsa", KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap()),
            Signing::Es256 => ("ecdsa", whole_key()),
        };
        let mut parameters: Value = serde_json::from_str(include_str!("../../peers/glewlwyd/oidc.json")).unwrap();
        parameters["iss"] = self.issuer.as_str().into();
        parameters["access-token-duration"] = self.lifetime.into();
        parameters["jwt-type"] = kind.into();
        parameters["key"] = key.serialize_pem().into();
        parameters["cert"] = key.public_key_pem().into();
        json!({"module": "oidc", "name": "oidc", "display_name": "oidc", "parameters": parameters})
    }

    async fn administer(&mut self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let answer = self.administrator.json(method, &format!("{}/api{path}", self.base), body.as_ref()).await;
        assert_eq!(answer.status, StatusCode::OK, "glewlwyd refuses {path}: {answer:?}");
        answer
    }
}

/// A P-256 key whose coordinates begin with no zero, since glewlwyd leaves zeros away and RFC 7518 section 6.2.1.2 does
/// not.
fn whole_key() -> KeyPair {
    loop {
        let key = KeyPair::generate().unwrap();
        let point = key.public_key_raw();
        if point[1] != 0 && point[33] != 0 {
            return key;
        }
    }
}

fn configuration(address: SocketAddr, database: &Path) -> String {
    let ip = address.ip();
    let port = address.port();
    let database = database.display();
    format!(
        "port={port}\nbind_address=\"{ip}\"\nexternal_url=\"http://{address}\"\nlogin_url=\"login.html\"\n\
         api_prefix=\"api\"\nstatic_files_path=\"/usr/share/glewlwyd/webapp/\"\n\
         log_mode=\"console\"\nlog_level=\"INFO\"\ncookie_secure=0\nsession_expiration=3600\n\
         session_key=\"GLEWLWYD_LOGIN\"\nadmin_scope=\"g_admin\"\nprofile_scope=\"g_profile\"\n\
         user_module_path=\"/usr/lib/glewlwyd/user\"\nclient_module_path=\"/usr/lib/glewlwyd/client\"\n\
         user_auth_scheme_module_path=\"/usr/lib/glewlwyd/scheme\"\nplugin_module_path=\"/usr/lib/glewlwyd/plugin\"\n\
         use_secure_connection=false\nsecure_connection_key_file=\"none\"\nsecure_connection_pem_file=\"none\"\n\
         secure_connection_ca_file=\"none\"\nhash_algorithm=\"SHA512\"\n\
         database = {{ type = \"sqlite3\" path = \"{database}\" }};\n"
    )
}
