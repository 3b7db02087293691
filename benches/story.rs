//! The cost of a request over a bare hyper proxy: CPU time of the serving thread for each request, both in one run,
//! round by round. `cargo bench --profile dist --bench story`.
//!
//! The bare proxy is hyper's server and hyper-util's client on one single-threaded runtime, with one log line for each
//! request and nothing else. Linux only: it reads `/proc/self/task`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a benchmark that cannot go on panics, reads the real clock, and prints what it measured"
)]

#[allow(dead_code, reason = "shared with the other benchmark")]
mod common;

use std::{
    convert::Infallible,
    fs,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    task::JoinSet,
};

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(1500);

fn main() {
    let upstream = start("upstream", |listener| async move {
        let body = bytes::Bytes::from(vec![b'x'; 1024]);
        serve(listener, move |_| {
            let body = body.clone();
            async move { Response::new(Full::new(body)) }
        })
        .await;
    });
    let folder = common::Folder::new("story");
    let log = Arc::new(Mutex::new(std::io::BufWriter::new(fs::File::create(folder.0.join("bare.log")).unwrap())));
    let bare = start("bare", move |listener| bare_proxy(listener, upstream, log));

    let issuer = common::Issuer::new();
    let config = common::configure(&folder, &issuer, &upstream.to_string());
    let background = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let app = background.block_on(wicketgate::app::App::start(&config)).unwrap();
    let gate = app.gate_addresses()[0].0;

    let one = vec![issuer.token("one", "scrape")];
    let many: Vec<String> = (0..20_000).map(|n| issuer.token(&format!("subject-{n}"), "scrape")).collect();
    let cases = [
        ("bare hyper", "bare", bare, "/small", &one),
        ("gate, one token", "worker-0", gate, "/exporters/bench/small", &one),
        ("gate, 20,000 tokens", "worker-0", gate, "/exporters/bench/small", &many),
    ];
    // warm up: connections, caches, and every token verified once
    for (_, thread, address, path, tokens) in &cases {
        measure(thread, *address, path, tokens, Duration::from_secs(4).min(ROUND * 3));
    }
    let mut figures = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for (n, (_, thread, address, path, tokens)) in cases.iter().enumerate() {
            figures[n].push(measure(thread, *address, path, tokens, ROUND));
        }
    }
    let medians: Vec<f64> = figures.iter_mut().map(|f| median(f)).collect();
    println!("{:24} {:>14} {:>12} {:>8}", "", "µs a request", "over bare", "ratio");
    for ((name, ..), median) in cases.iter().zip(&medians) {
        println!("{name:24} {median:14.2} {:12.2} {:8.2}", median - medians[0], median / medians[0]);
    }
    background.block_on(app.stop());
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Loads `address` and returns the CPU microseconds that the thread of this name spent on each request.
fn measure(thread: &str, address: SocketAddr, path: &str, tokens: &[String], time: Duration) -> f64 {
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(
        tokens
            .iter()
            .map(|token| {
                format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes()
            })
            .collect(),
    );
    let before = cpu(thread);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let count = runtime.block_on(async {
        let end = Instant::now() + time;
        let mut clients = JoinSet::new();
        for n in 0..CONNECTIONS {
            clients.spawn(client(address, requests.clone(), n * requests.len() / CONNECTIONS, end));
        }
        clients.join_all().await.into_iter().sum::<u64>()
    });
    (cpu(thread) - before) as f64 / 1000.0 / count as f64
}

async fn client(address: SocketAddr, requests: Arc<Vec<Vec<u8>>>, first: usize, end: Instant) -> u64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 16 * 1024];
    let mut count = 0;
    for request in requests.iter().cycle().skip(first) {
        stream.write_all(request).await.unwrap();
        let mut length = 0;
        let mut response_length = usize::MAX;
        while length < response_length {
            length += stream.read(&mut buffer[length..]).await.unwrap();
            if let Some(head) = buffer[..length].windows(4).position(|w| w == b"\r\n\r\n") {
                assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..length]));
                response_length = head + 4 + 1024;
            }
        }
        count += 1;
        if Instant::now() >= end {
            break;
        }
    }
    count
}

/// Nanoseconds of CPU that threads of this name have used (`schedstat`, first field).
fn cpu(name: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let mine = tasks.filter(|t| fs::read_to_string(t.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    mine.filter_map(|t| {
        let text = fs::read_to_string(t.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    })
    .sum()
}

/// Runs `work` on a single-threaded runtime of its own; returns where it listens.
fn start<F, Fut>(name: &str, work: F) -> SocketAddr
where
    F: FnOnce(TcpListener) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let (tell, address) = mpsc::channel();
    let run = move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            work(listener).await;
        });
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).unwrap();
    address.recv().unwrap()
}

async fn serve<F, Fut, B>(listener: TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let answer = answer.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let timeout = Duration::from_secs(75);
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(timeout);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn bare_proxy(listener: TcpListener, upstream: SocketAddr, log: Arc<Mutex<std::io::BufWriter<fs::File>>>) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Incoming>();
    serve(listener, move |mut request| {
        let client = client.clone();
        let log = log.clone();
        async move {
            let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
            *request.uri_mut() = format!("http://{upstream}{path}").parse::<Uri>().unwrap();
            request.headers_mut().remove(http::header::HOST);
            let response = client.request(request).await.unwrap();
            let _ = writeln!(log.lock().unwrap(), r#"{{"path":"{path}","status":{}}}"#, response.status().as_u16());
            response
        }
    })
    .await;
}
