//! `wicketgate certs init`: a private CA and a server certificate that it signs.
//!
//! Promises: all four files are written, or none; a file that exists is never overwritten; a private key is created
//! with mode 0600.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::DnsName;

use crate::{
    cli::output::{USAGE_ERROR, print_error, print_line},
    clock,
};

const DAY: u64 = 24 * 60 * 60;
/// How long the CA is valid: ten years.
const CA_DAYS: u64 = 3650;
/// Apple's clients refuse a server certificate of a private CA that is valid for longer.
const MAX_DAYS: i64 = 825;

/// The options of `wicketgate certs init`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    /// A DNS name or an IP address that clients reach the gate by; may be repeated
    #[arg(long = "name", value_name = "HOST", required = true)]
    names: Vec<String>,
    /// The directory to write ca.pem, ca.key, gate.pem and gate.key into
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// How many days the gate's certificate is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=MAX_DAYS as u64))]
    days: u64,
}

pub(super) fn init(options: &Options) -> ExitCode {
    let written = options.names.iter().try_for_each(|name| check_name(name)).and_then(|()| {
        let pems = make(options).map_err(|error| format!("cannot make the certificates: {error}"))?;
        write(&options.dir, &pems)
    });
    match written {
        Ok(()) => {
            print_line(&next_steps(&options.dir));
            ExitCode::SUCCESS
        }
        Err(text) => {
            print_error(&text);
            ExitCode::from(USAGE_ERROR)
        }
    }
}

/// RFC 9525 section 6.3: a wildcard is the whole leftmost label.
fn check_name(name: &str) -> Result<(), String> {
    let is_ip = name.parse::<IpAddr>().is_ok();
    let is_dns = DnsName::try_from(name.strip_prefix("*.").unwrap_or(name)).is_ok();
    if is_ip || is_dns {
        return Ok(());
    }
    Err(format!("`{}` is neither a DNS name nor an IP address; write `--name gate.example.com`", name.escape_debug()))
}

/// A file's name, its content and its mode.
type PemFile = (&'static str, String, u32);

fn make(options: &Options) -> Result<[PemFile; 4], rcgen::Error> {
    let mut params = valid_for(Vec::new(), CA_DAYS)?;
    // two CAs of one name confuse clients that trust both
    let name = format!("wicketgate CA {}", clock::now().strftime("%Y-%m-%d %H:%M:%S"));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let mut params = valid_for(options.names.clone(), options.days)?;
    params.distinguished_name.push(DnType::CommonName, "wicketgate");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &ca)?;
    Ok([
        ("ca.key", ca.key().serialize_pem(), 0o600),
        ("ca.pem", ca.pem(), 0o644),
        ("gate.key", key.serialize_pem(), 0o600),
        ("gate.pem", certificate.pem(), 0o644),
    ])
}

/// Valid from a day ago, for clients whose clocks are behind.
fn valid_for(names: Vec<String>, days: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let now = Duration::from_secs(clock::now().as_second().unsigned_abs());
    params.not_before = date_time_ymd(1970, 1, 1) + now - Duration::from_secs(DAY);
    params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(days * DAY);
    Ok(params)
}

/// Creates every file, or removes those that this call created.
fn write(directory: &Path, files: &[PemFile]) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("cannot create `{}`: {error}", directory.display()))?;
    let mut created: Vec<PathBuf> = Vec::new();
    for (name, text, mode) in files {
        let path = directory.join(name);
        let result = create(&path, text, *mode, &mut created);
        if let Err(error) = result {
            for path in &created {
                let _ = fs::remove_file(path);
            }
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => format!(
                    "`{}` exists and is not overwritten; nothing was written. Move it away, or choose another `--dir`",
                    path.display()
                ),
                _ => format!("cannot write `{}`: {error}; nothing was written", path.display()),
            });
        }
    }
    Ok(())
}

fn create(path: &Path, text: &str, mode: u32, created: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    created.push(path.to_owned());
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn next_steps(directory: &Path) -> String {
    let file = |name: &str| directory.join(name).display().to_string();
    let ca = file("ca.pem");
    let ca_key = file("ca.key");
    let certificate = file("gate.pem");
    let key = file("gate.key");
    let is_default = directory == Path::new("certs");
    let tls = if is_default {
        "tls = true".to_owned()
    } else {
        format!("tls = {{ certificate = \"{certificate}\", key = \"{key}\" }}")
    };
    format!(
        "{ca}       the CA; clients trust this file: `curl --cacert {ca} …`\n\
         {ca_key}       its key; it can sign any name, so keep it off the gate's machine\n\
         {certificate}     the gate's certificate\n\
         {key}     its key\n\n\
         Write into `[[listen]]` of the configuration (paths are relative to that file):\n\n    {tls}\n"
    )
}
