//! Hostile tokens: each is refused with its own reason in response and audit record, and reaches neither an upstream
//! nor a URL that the token names.

use std::process::Stdio;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::{Value, json};
use wicketgate::internals::clock;

use crate::support::{
    Gate, Harness,
    issuer::{Issuer, Key, Token, text},
    upstream::{self, Upstream},
};

const PROTECTED_PATH: &str = "/exporters/app/metrics";
/// The order of P-256 (FIPS 186-5).
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// The order of Ed25519's base point (RFC 8032 section 5.1), little-endian.
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// What one row is: a name, the reason it is refused with, and the token.
type Row = (String, &'static str, String);

/// What hostile tokens are made with.
struct Forge<'a> {
    gate: &'a Gate,
    /// Another issuer that the gate trusts; it has keys of the same names.
    other: &'a Issuer,
    /// A server of the attacker's.
    evil: String,
    attacker: Key,
    now: i64,
    rows: Vec<Row>,
}

impl Forge<'_> {
    fn add(&mut self, name: impl Into<String>, reason: &'static str, token: impl Into<String>) {
        self.rows.push((name.into(), reason, token.into()));
    }

    /// A good token, old enough that the gate need not look for its key again.
    fn good(&self) -> Token<'_> {
        self.gate.token_builder("scrape").claim("iat", self.now - 300)
    }

    /// A token with this header text.
    fn header(&self, header: &str) -> String {
        self.gate.issuer.key("rsa").token_of("RS256", header, self.good().parts().1)
    }

    /// A token with this payload.
    fn payload(&self, payload: impl AsRef<[u8]>) -> String {
        self.gate.issuer.key("rsa").token_of("RS256", self.good().parts().0, payload)
    }

    /// A token whose claims end in this text instead of their last brace.
    fn claims_and(&self, more: &str) -> String {
        let claims = self.good().parts().1;
        self.payload(format!("{}{more}", claims.strip_suffix('}').unwrap()))
    }

    /// A good token with the signature that `bend` makes of its own.
    fn signature(&self, kid: &str, algorithm: &str, bend: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
        let token = self.good().signed_by(self.gate.issuer.key(kid), algorithm).mint();
        let (message, signature) = token.rsplit_once('.').unwrap();
        format!("{message}.{}", text(bend(URL_SAFE_NO_PAD.decode(signature).unwrap())))
    }

    fn algorithms(&mut self) {
        for none in ["none", "None", "NONE", "nOnE", "NonE"] {
            let token = self.good().header("alg", none).mint();
            let message = token.rsplit_once('.').unwrap().0.to_owned();
            self.add(format!("alg {none}, no signature"), "token_algorithm", format!("{message}."));
            self.add(format!("alg {none}, signed"), "token_algorithm", token);
        }
        let pem = self.gate.issuer.key("rsa").public_pem();
        self.add("HS256 with the public key as its secret", "token_algorithm", self.good().mint_hs256(pem.as_bytes()));
        let jwk = self.gate.issuer.key("rsa").jwk.to_string();
        self.add("HS256 with the JWK as its secret", "token_algorithm", self.good().mint_hs256(jwk.as_bytes()));
        self.add("HS256 with nothing as its secret", "token_algorithm", self.good().mint_hs256(b""));
        let symmetric = self.good().header("kid", "symmetric").mint_hs256(b"published by mistake");
        self.add("HS256 with a published symmetric key", "token_algorithm", symmetric);
        for algorithm in ["HS384", "HS512", "RS1", "RS384", "ES512", "ES256K", "rs256", "RSA-OAEP", "dir", ""] {
            self.add(format!("alg `{algorithm}`"), "token_algorithm", self.good().header("alg", algorithm).mint());
        }
        for wrong in [json!(null), json!(256), json!(["RS256"]), json!({"RS256": 1}), json!(true)] {
            self.add(format!("alg {wrong}"), "token_malformed", self.good().header("alg", wrong).mint());
        }
        let unfit = |kid: &str, algorithm: &str| self.good().header("kid", kid).header("alg", algorithm).mint();
        let rows = [
            ("the EC key's name with RS256", unfit("ec", "RS256")),
            ("the RSA key's name with ES256", unfit("rsa", "ES256")),
            ("the RSA key's name with EdDSA", unfit("rsa", "EdDSA")),
            ("a P-256 key with ES384", unfit("ec", "ES384")),
            ("a P-384 key with ES256", unfit("p384", "ES256")),
            ("PS256 with a key for RS256 alone", unfit("rs256-only", "PS256")),
        ];
        rows.into_iter().for_each(|(name, token)| self.add(name, "token_algorithm", token));
    }

    fn key_names(&mut self) {
        let long = "k".repeat(8000);
        for kid in [
            "../../../../../dev/null",
            "/proc/self/environ",
            "https://evil.example/jwks.json",
            "' OR '1'='1' --",
            "rsa\u{0}",
            "rsa ",
            "RSA",
            "%72sa",
            "",
            "$(id)",
            &long,
        ] {
            let name: String = kid.chars().take(40).collect();
            self.add(format!("kid `{name}`"), "token_unknown_key", self.good().header("kid", kid).mint());
        }
        for wrong in [json!(1), json!(["rsa"]), json!({"kid": "rsa"})] {
            self.add(format!("kid {wrong}"), "token_malformed", self.good().header("kid", wrong).mint());
        }
        let nameless = self.good().header("kid", Value::Null).mint();
        self.add("no kid where several keys fit", "token_ambiguous_key", nameless);
        for (name, kid) in [
            ("a key for encryption", "encryption"),
            ("a key that may only sign", "sign-only"),
            ("an RSA key of 1024 bits", "small"),
            ("a P-256 point called P-384", "mislabelled"),
        ] {
            let key = if kid == "mislabelled" { "ec" } else { "rsa" };
            let algorithm = if kid == "mislabelled" { "ES384" } else { "RS256" };
            let key = self.gate.issuer.key(key);
            let token = self.good().signed_by(key, algorithm).header("kid", kid).mint();
            self.add(name, "token_unknown_key", token);
        }
        let off = self.good().signed_by(self.gate.issuer.key("ec"), "ES256").header("kid", "off-curve").mint();
        self.add("a key that is no point of its curve", "token_signature", off);
    }

    fn brought_keys(&mut self) {
        let evil = self.evil.clone();
        let jwk = self.attacker.jwk.clone();
        for (name, value) in [
            ("jku", json!(format!("{evil}/jwks"))),
            ("x5u", json!(format!("{evil}/x5u"))),
            ("x5c", json!(["MIIB"])),
            ("jwk", jwk),
        ] {
            // under a name of its own, and under the name of a good key
            let own = self.good().signed_by(&self.attacker, "RS256").header(name, value.clone()).mint();
            self.add(format!("{name}, its own key"), "token_unknown_key", own);
            let named = self.good().signed_by(&self.attacker, "RS256").header(name, value).header("kid", "rsa").mint();
            self.add(format!("{name}, a good key's name"), "token_signature", named);
        }
        let of_other = self.other.key("rsa");
        let token = self.good().signed_by(of_other, "RS256").mint();
        self.add("this issuer's name, another one's key of the same name", "token_signature", token);
        let token = self.good().claim("iss", self.other.url()).mint();
        self.add("another issuer's name, this one's key", "token_signature", token);
    }

    fn headers(&mut self) {
        for (name, header) in [
            ("alg twice", r#"{"alg":"none","alg":"RS256","kid":"rsa"}"#),
            ("kid twice", r#"{"alg":"RS256","kid":"x","kid":"rsa"}"#),
            ("alg twice, once escaped", r#"{"\u0061lg":"none","alg":"RS256","kid":"rsa"}"#),
            ("an unknown member twice", r#"{"alg":"RS256","kid":"rsa","x":1,"x":2}"#),
        ] {
            self.add(name, "token_duplicate_member", self.header(header));
        }
        for (name, header) in [
            ("crit", r#"{"alg":"RS256","kid":"rsa","crit":["exp"],"exp":1}"#),
            ("crit, empty", r#"{"alg":"RS256","kid":"rsa","crit":[]}"#),
            ("crit of b64", r#"{"alg":"RS256","kid":"rsa","crit":["b64"],"b64":false}"#),
            ("b64 without crit", r#"{"alg":"RS256","kid":"rsa","b64":false}"#),
        ] {
            self.add(name, "token_critical", self.header(header));
        }
        for kind in ["dpop+jwt", "logout+jwt", "secevent+jwt", "JOSE", "JWE", "at+jwt ", "application/at+jwt;v=1", ""] {
            self.add(format!("typ `{kind}`"), "token_type", self.good().header("typ", kind).mint());
        }
        let logout = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
        self.add("an untyped logout token", "token_type", self.good().claim("events", logout).mint());
        self.add("cty JWT", "token_type", self.good().header("cty", "JWT").mint());
        for (name, header) in [
            ("a header that is a list", "[]"),
            ("a header that is a string", r#""RS256""#),
            ("a header that is cut off", r#"{"alg":"RS256","kid":"rsa""#),
            ("a header and more", r#"{"alg":"RS256","kid":"rsa"}{"#),
            ("a header with a BOM", "\u{feff}{\"alg\":\"RS256\",\"kid\":\"rsa\"}"),
            ("an empty header", ""),
        ] {
            self.add(name, "token_malformed", self.header(header));
        }
        let bytes = b"{\"alg\":\"RS256\",\"kid\":\"rsa\",\"x\":\"\xff\"}";
        let token = self.gate.issuer.key("rsa").token_of("RS256", bytes, self.good().parts().1);
        self.add("a header that is not UTF-8", "token_malformed", token);
    }

    fn claims(&mut self) {
        for (name, more) in [
            ("iss twice", r#","iss":"https://elsewhere.example"}"#),
            ("exp twice", r#","exp":99999999999}"#),
            ("aud twice", r#","aud":"somebody-else"}"#),
            ("roles twice", r#","roles":["administer"]}"#),
            ("sub twice, once escaped", r#","\u0073ub":"admin"}"#),
        ] {
            self.add(name, "token_duplicate_member", self.claims_and(more));
        }
        let deep = format!(",\"x\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        let many: String = (0..200).map(|n| format!(",\"m{n}\":0")).collect();
        let mut bytes = self.good().parts().1.into_bytes();
        bytes.truncate(bytes.len() - 1);
        bytes.extend(b",\"x\":\"\xc0\x80\"}");
        let rows: [(&str, String); 15] = [
            ("claims nested very deep", self.claims_and(&deep)),
            ("very many claims", self.claims_and(&format!("{many}}}"))),
            ("half a character in an unused claim", self.claims_and(r#","x":"\ud800"}"#)),
            ("a number out of range in an unused claim", self.claims_and(",\"x\":1e999}")),
            ("claims and more", self.claims_and("}{}")),
            ("claims that are cut off", self.claims_and("")),
            ("claims with a comma too many", self.claims_and(",}")),
            ("a date that is NaN", self.claims_and(",\"auth_time\":NaN}")),
            ("claims with a BOM", self.payload(format!("\u{feff}{}", self.good().parts().1))),
            ("claims that are not UTF-8", self.payload(bytes)),
            ("claims that are a list", self.payload("[]")),
            ("claims that are a string", self.payload(r#""claims""#)),
            ("claims that are nothing", self.payload("null")),
            ("no claims", self.payload("")),
            ("a JWT as the claims", self.payload(self.good().mint())),
        ];
        rows.into_iter().for_each(|(name, token)| self.add(name, "token_claims", token));
        let huge = self.good().claim("exp", Value::Null).parts().1.replacen('{', "{\"exp\":1e400,", 1);
        self.add("exp beyond every number", "token_claims", self.payload(huge));
    }

    fn values(&mut self) {
        let now = self.now;
        let text_of = |at: i64| json!(at.to_string());
        for (name, value) in [
            ("exp", json!(null)),
            ("exp", text_of(now + 600)),
            ("exp", json!(-1)),
            ("exp", json!(1e300)),
            ("exp", json!(i64::MAX)),
            ("exp", json!(true)),
            ("exp", json!([now + 600])),
            ("nbf", text_of(now - 600)),
            ("nbf", json!(-1)),
            ("iat", text_of(now - 600)),
            ("iat", json!({})),
            ("iat", json!(-5)),
            ("aud", json!(7)),
            ("aud", json!({"wicketgate": true})),
            ("aud", json!([["wicketgate"]])),
            ("aud", json!(["wicketgate", 7])),
            ("iss", json!([self.gate.issuer.url()])),
            ("sub", json!(null)),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("sub", json!(["tester"])),
        ] {
            self.add(format!("{name} {value}"), "token_claims", self.good().claim(name, value).mint());
        }
        for (name, value, reason) in [
            ("exp", json!(now - 61), "token_expired"),
            ("exp", json!(0), "token_expired"),
            ("nbf", json!(now + 120), "token_not_yet_valid"),
            ("iat", json!(now + 120), "token_not_yet_valid"),
            ("aud", json!(null), "token_audience"),
            ("aud", json!([]), "token_audience"),
            ("aud", json!(""), "token_audience"),
            ("aud", json!("WICKETGATE"), "token_audience"),
            ("aud", json!("wicketgate "), "token_audience"),
            ("aud", json!("wicketgate,other"), "token_audience"),
            ("aud", json!(["https://wicketgate"]), "token_audience"),
            ("iss", json!(null), "token_issuer"),
            ("iss", json!(""), "token_issuer"),
            ("iss", json!(format!("{}/", self.gate.issuer.url())), "token_issuer"),
            ("iss", json!(self.gate.issuer.url().to_uppercase()), "token_issuer"),
            ("iss", json!(format!("{}\u{0}", self.gate.issuer.url())), "token_issuer"),
            ("sub", json!("tester\u{0}admin"), "token_subject"),
            ("sub", json!("tester\nadmin"), "token_subject"),
            ("sub", json!("tester\u{9b}31m"), "token_subject"),
            ("sub", json!("x".repeat(1025)), "token_subject"),
        ] {
            let shown: String = value.to_string().chars().take(40).collect();
            self.add(format!("{name} {shown}"), reason, self.good().claim(name, value).mint());
        }
    }

    fn forms(&mut self) {
        let token = self.good().mint();
        let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
        let spare = format!("{}B", &signature[..signature.len() - 1]);
        let rows = [
            ("token_malformed", "two parts", format!("{header}.{payload}")),
            ("token_malformed", "four parts", format!("{token}.{signature}")),
            ("token_malformed", "dots", "..".to_owned()),
            ("token_malformed", "a dot in front", format!(".{token}")),
            ("token_malformed", "one part", header.to_owned()),
            ("token_encrypted", "five parts", format!("{token}.{signature}.{signature}")),
            ("token_malformed", "a padded header", format!("{header}==.{payload}.{signature}")),
            ("token_malformed", "a padded payload", format!("{header}.{payload}=.{signature}")),
            ("token_signature", "a padded signature", format!("{token}==")),
            ("token_malformed", "the other base64", format!("{header}.{payload}+/.{signature}")),
            ("token_signature", "the other base64 in the signature", format!("{header}.{payload}.+/{signature}")),
            ("token_malformed", "a space within", format!("{header}. {payload}.{signature}")),
            ("token_malformed", "two tokens", format!("{token} {token}")),
            (
                "token_malformed",
                "the JSON form",
                format!("{{\"payload\":\"{payload}\",\"signature\":\"{signature}\"}}"),
            ),
            ("token_too_long", "seventeen KiB", format!("{header}.{}.{signature}", "e".repeat(17 * 1024))),
            ("token_signature", "no signature", format!("{header}.{payload}.")),
            (
                "token_signature",
                "half a signature",
                format!("{header}.{payload}.{}", &signature[..signature.len() / 2]),
            ),
            ("token_signature", "spare bits in the signature", format!("{header}.{payload}.{spare}")),
            ("token_signature", "another payload", {
                let other = self.good().claim("roles", json!(["administer"])).mint();
                format!("{header}.{}.{signature}", other.split('.').nth(1).unwrap())
            }),
            (
                "token_signature",
                "another header",
                format!("{}.{payload}.{signature}", { text(r#"{"alg":"RS256","kid":"rsa"}"#) }),
            ),
        ];
        rows.into_iter().for_each(|(reason, name, token)| self.add(name, reason, token));
    }

    fn signatures(&mut self) {
        let half = |signature: &[u8], zeroed: usize| {
            let mut bent = signature.to_vec();
            bent[zeroed * 32..(zeroed + 1) * 32].fill(0);
            bent
        };
        let rows: [(&str, &str, String); 14] = [
            ("r = s = 0", "ES256", self.signature("ec", "ES256", |_| vec![0; 64])),
            ("r = 0", "ES256", self.signature("ec", "ES256", |made| half(&made, 0))),
            ("s = 0", "ES256", self.signature("ec", "ES256", |made| half(&made, 1))),
            ("r = s = n", "ES256", self.signature("ec", "ES256", |_| [P256_ORDER, P256_ORDER].concat())),
            (
                "r = s = 1",
                "ES256",
                self.signature("ec", "ES256", |_| {
                    let mut one = vec![0; 64];
                    (one[31], one[63]) = (1, 1);
                    one
                }),
            ),
            (
                "r and s the other way round",
                "ES256",
                self.signature("ec", "ES256", |mut made| {
                    made.rotate_left(32);
                    made
                }),
            ),
            ("DER", "ES256", self.signature("ec", "ES256", |made| der(&made))),
            ("a zero in front", "ES256", self.signature("ec", "ES256", |made| [vec![0], made].concat())),
            ("a byte too few", "ES256", self.signature("ec", "ES256", |made| made[..63].to_vec())),
            ("the length of ES384", "ES256", self.signature("ec", "ES256", |made| [made, vec![0; 32]].concat())),
            ("an RSA signature of zeros", "RS256", self.signature("rsa", "RS256", |made| vec![0; made.len()])),
            ("an RSA signature with a zero in front", "RS256", {
                self.signature("rsa", "RS256", |made| [vec![0], made].concat())
            }),
            ("PS256 that says RS256", "RS256", {
                let (header, claims) = self.good().parts();
                self.gate.issuer.key("rsa").token_of("PS256", header, claims)
            }),
            ("an EdDSA signature with s + L", "EdDSA", self.signature("ed", "EdDSA", |made| plus_order(&made))),
        ];
        for (name, algorithm, token) in rows {
            self.add(format!("{algorithm}: {name}"), "token_signature", token);
        }
    }
}

/// r and s as ASN.1 has them (RFC 3279 section 2.2.3).
fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let mut value: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
        if value[0] >= 0x80 {
            value.insert(0, 0);
        }
        [vec![2, u8::try_from(value.len()).unwrap()], value].concat()
    };
    let both = [integer(&signature[..32]), integer(&signature[32..])].concat();
    [vec![0x30, u8::try_from(both.len()).unwrap()], both].concat()
}

/// An Ed25519 signature whose s is larger by the order: it verifies if its bound is not checked (RFC 8032 section
/// 5.1.7).
fn plus_order(signature: &[u8]) -> Vec<u8> {
    let mut bent = signature.to_vec();
    let mut carry = 0_u16;
    for (byte, order) in bent[32..].iter_mut().zip(ED25519_ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = u8::try_from(sum & 0xff).unwrap();
        carry = sum >> 8;
    }
    bent
}

/// The twin of an ECDSA signature: (r, n - s).
fn twin(signature: &[u8]) -> Vec<u8> {
    let mut bent = signature.to_vec();
    let mut borrow = 0_i16;
    for at in (0..32).rev() {
        let mut difference = i16::from(P256_ORDER[at]) - i16::from(signature[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        difference += 256 * borrow;
        bent[32 + at] = u8::try_from(difference).unwrap();
    }
    bent
}

/// A key set with everything in it that must not verify a token.
fn trap(issuer: &Issuer, small: &Value) -> Value {
    let p384 = Key::ec384("p384");
    let rs256_only = Key::rsa("rs256-only").published_with("alg", "RS256");
    let named = |kid: &str, of: &str, changes: &[(&str, Value)]| {
        let mut jwk = issuer.key(of).jwk.clone();
        jwk["kid"] = kid.into();
        for (name, value) in changes {
            jwk[*name] = value.clone();
        }
        jwk
    };
    let off = text([7; 32]);
    let mut keys: Vec<Value> = issuer.keys.iter().map(|key| key.jwk.clone()).collect();
    keys.extend([
        p384.jwk,
        rs256_only.jwk,
        named("encryption", "rsa", &[("use", json!("enc"))]),
        named("sign-only", "rsa", &[("key_ops", json!(["sign"]))]),
        named("mislabelled", "ec", &[("crv", json!("P-384"))]),
        named("off-curve", "ec", &[("x", json!(off)), ("y", json!(off))]),
        json!({"kty": "oct", "kid": "symmetric", "alg": "HS256", "k": text("published by mistake")}),
        small.clone(),
    ]);
    json!({"keys": keys})
}

/// An RSA key of 1024 bits, which aws-lc-rs makes none of, and a token of these parts that it signed.
async fn small_key(header: &str, claims: &str) -> (Value, String) {
    const SCRIPT: &str = "const c = require('crypto');
        const [, header, claims] = process.argv;
        const { privateKey, publicKey } = c.generateKeyPairSync('rsa', { modulusLength: 1024 });
        const part = (text) => Buffer.from(text).toString('base64url');
        const message = part(header) + '.' + part(claims);
        const signature = c.sign('sha256', Buffer.from(message), privateKey).toString('base64url');
        const jwk = { ...publicKey.export({ format: 'jwk' }), kid: 'small', use: 'sig' };
        console.log(JSON.stringify({ jwk, token: message + '.' + signature }));";
    let output =
        tokio::process::Command::new("node").args(["-e", SCRIPT, header, claims]).stdin(Stdio::null()).output();
    let output = output.await.expect("node is not installed: run `tests/run`, which installs the suite's peers");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (made["jwk"].clone(), made["token"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn every_hostile_token_is_refused_for_its_own_reason() {
    let other = Issuer::start().await;
    let evil = Upstream::start(|_| upstream::json(&json!({"keys": []}))).await;
    let harness = Harness::new().await;
    let now = clock::now().as_second();
    let small = harness.issuer.token("tester", &["scrape"]).claim("iat", now - 300).header("kid", "small").parts();
    let (small_jwk, small_token) = small_key(&small.0, &small.1).await;
    harness.issuer.publish_jwks(trap(&harness.issuer, &small_jwk));
    let section = format!(
        "algorithms = [\"RS256\", \"PS256\", \"ES256\", \"ES384\", \"EdDSA\"]\n\n\
         [[issuer]]\nname = \"other\"\nissuer = \"{}\"\naudiences = [\"wicketgate\"]",
        other.url()
    );
    let gate = harness.more("issuer", section).start().await;
    let attacker = Key::rsa("attacker");
    let mut forge = Forge { gate: &gate, other: &other, evil: evil.url(), attacker, now, rows: Vec::new() };
    // without this the rest would show nothing
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&forge.good().mint()).send().await.status, StatusCode::OK);

    forge.algorithms();
    forge.key_names();
    forge.brought_keys();
    forge.headers();
    forge.claims();
    forge.values();
    forge.forms();
    forge.signatures();
    forge.add("an RSA key of 1024 bits, truly signed", "token_unknown_key", small_token);
    assert!(forge.rows.len() >= 60, "{} rows", forge.rows.len());

    let before = (gate.app.requests(), gate.app.connections());
    let mut broken = Vec::new();
    let mut ids = Vec::new();
    for (name, reason, token) in &forge.rows {
        let answer = gate.get(PROTECTED_PATH).bearer(token).send().await;
        let told = answer.json()["reason"].as_str().unwrap_or_default().to_owned();
        if answer.status != StatusCode::UNAUTHORIZED || told != *reason {
            broken.push(format!("{name}: {} {told}, not 401 {reason}", answer.status));
        }
        ids.push((name, reason, token, answer.id()));
    }
    assert!(broken.is_empty(), "{} of {}:\n{}", broken.len(), forge.rows.len(), broken.join("\n"));
    for (name, reason, token, id) in ids {
        let record = gate.record(&id).await;
        assert_eq!((&record["reason"], &record["decision"]), (&(*reason).into(), &"deny".into()), "{name}: {record}");
        assert_eq!(record["principal"], Value::Null, "{name}: an unproven name is in the record: {record}");
        assert!(!record.to_string().contains(&**token), "{name}: the record holds the token");
    }
    assert_eq!((gate.app.requests(), gate.app.connections()), before, "an upstream saw a refused request");
    assert_eq!(evil.connections(), 0, "the gate went where a token sent it");
    assert_eq!(
        gate.get(PROTECTED_PATH).bearer(&forge.good().mint()).send().await.status,
        StatusCode::OK,
        "it no longer works"
    );
}

/// Every second honest signature is the higher twin, so refusing one of them would refuse half of all good tokens; what
/// matters is that the second form is the same caller. `identity/jwt.rs` has the reasons.
#[tokio::test]
async fn both_forms_of_an_ecdsa_signature_are_the_same_caller() {
    let gate = Harness::new().await.start().await;
    let token = gate.token_builder("scrape").signed_by(gate.issuer.key("ec"), "ES256").mint();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let twin = format!("{message}.{}", text(twin(&URL_SAFE_NO_PAD.decode(signature).unwrap())));
    assert_ne!(twin, token);
    for token in [token, twin] {
        let answer = gate.get(PROTECTED_PATH).bearer(&token).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(gate.record(&answer.id()).await["principal"], "corp:tester");
    }
}

#[tokio::test]
async fn an_issuer_can_require_access_tokens_and_claims() {
    let rules = "token_type = \"at+jwt\"\nrequired_claims = { tenant = \"t-1\", email_verified = true, jti = \"*\" }";
    let gate = Harness::new().await.more("issuer", rules).start().await;
    let good = || gate.token_builder("scrape").claim("tenant", "t-1").claim("email_verified", true);
    // RFC 9068 section 2.1: media types know no case, and their prefix may be left out
    for kind in ["at+jwt", "application/at+jwt", "AT+JWT"] {
        let answer = gate.get(PROTECTED_PATH).bearer(&good().header("typ", kind).mint()).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}: {answer:?}");
    }
    let before = (gate.app.requests(), gate.app.connections());
    for (reason, token) in [
        ("token_type", good().header("typ", "JWT")),
        ("token_type", good().header("typ", Value::Null)),
        ("token_required_claim", good().claim("tenant", "t-2")),
        ("token_required_claim", good().claim("tenant", json!(["t-1"]))),
        ("token_required_claim", good().claim("tenant", Value::Null)),
        ("token_required_claim", good().claim("email_verified", "true")),
        ("token_required_claim", good().claim("jti", Value::Null)),
    ] {
        let answer = gate.get(PROTECTED_PATH).bearer(&token.mint()).send().await;
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (401, &reason.into()), "{answer:?}");
        assert_eq!(gate.record(&answer.id()).await["reason"], reason);
    }
    assert_eq!((gate.app.requests(), gate.app.connections()), before, "an upstream saw a refused request");
}
