//! The file that records are appended to, and the chain that binds them.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    Record,
    verify::{last_link, link},
};
use crate::{clock, refusal::Refusal};

/// Lines that need not be on disk before anything else happens wait for each other up to this many bytes.
const BUFFER_LIMIT: usize = 64 * 1024;
/// … and up to this long.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// While the log cannot be written, this many bytes of lines wait. Further lines are lost, and a line says how many.
const MOST_WAITING: usize = 16 * 1024 * 1024;

/// Why the audit log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the audit log `{}`", .0.display())]
pub struct AuditError(PathBuf, #[source] std::io::Error);

/// The open audit log. One for the whole process: the chain has one order.
pub struct Log {
    path: PathBuf,
    chain: Mutex<Chain>,
}

struct Chain {
    file: File,
    /// Bytes of the file that hold whole lines; what a failed write left behind them is cut off.
    length: u64,
    /// Whether that has yet to be done.
    torn: bool,
    buffer: Vec<u8>,
    /// Lines that there was no room for.
    lost: u64,
    seq: u64,
    hash: [u8; 32],
}

/// Proof that a permit is in the audit log. [`Log::permit`] alone makes one, and nothing is forwarded without it.
pub struct PermitWritten(());

impl Log {
    /// Opens the log, or makes it, and takes the chain up where it ends.
    ///
    /// # Errors
    /// When the file cannot be opened, another process has it open, or its last line is not one of a chain.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let failed = |e| AuditError(path.to_owned(), e);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed)?;
        claim(&file).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let (seq, hash, length) = resume(&mut file, length).map_err(failed)?;
        let buffer = Vec::with_capacity(BUFFER_LIMIT);
        let chain = Chain { file, length, torn: false, buffer, lost: 0, seq, hash };
        Ok(Self { path: path.to_owned(), chain: Mutex::new(chain) })
    }

    /// Where the log is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes that `record`'s request was permitted. When this returns, the operating system has the line.
    ///
    /// # Errors
    /// A refusal (503) if the line cannot be written.
    pub fn permit(&self, record: &Record) -> Result<PermitWritten, Refusal> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        chain.append("permit", record, None).and_then(|()| chain.flush()).map(|()| PermitWritten(())).map_err(|e| {
            Refusal::unavailable("audit_unavailable", "the audit log cannot be written; try again later").with_detail(e)
        })
    }

    /// Writes the whole record of a request that is over. It reaches the operating system with the next permit, or
    /// within a tenth of a second.
    pub fn close(&self, record: &Record, bytes_out: u64) {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        report(chain.append("request", record, Some(bytes_out)));
        if chain.buffer.len() >= BUFFER_LIMIT && chain.lost == 0 {
            report(chain.flush());
        }
    }

    /// Writes what is waiting.
    pub fn flush(&self) {
        report(self.chain.lock().unwrap_or_else(PoisonError::into_inner).flush());
    }

    /// Flushes now and then until it is dropped.
    pub async fn keep_flushing(&self) {
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            self.flush();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "the audit log cannot be written; requests are refused until it can");
    }
}

impl Chain {
    /// Puts a line into the buffer, or counts it as lost where the buffer is full and cannot be written.
    fn append(&mut self, event: &'static str, record: &Record, bytes_out: Option<u64>) -> std::io::Result<()> {
        if self.buffer.len() >= MOST_WAITING
            && let Err(error) = self.flush()
        {
            self.lost += 1;
            return Err(error);
        }
        self.seal(|to, seq| line(to, event, record, bytes_out, seq));
        Ok(())
    }

    /// Has `write` put a line's beginning into the buffer and binds it to the chain.
    fn seal(&mut self, write: impl FnOnce(&mut Vec<u8>, u64)) {
        let start = self.buffer.len();
        self.seq += 1;
        write(&mut self.buffer, self.seq);
        self.hash = link(&self.hash, self.buffer.get(start..).unwrap_or_default());
        self.buffer.extend_from_slice(b",\"hash\":\"");
        self.buffer.extend_from_slice(blake3::Hash::from_bytes(self.hash).to_hex().as_bytes());
        self.buffer.extend_from_slice(b"\"}\n");
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        if let Err(error) = self.file.write_all(&self.buffer) {
            // part of a line may be in the file: cut it off, and try the whole buffer again with the next flush
            self.torn = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_LIMIT);
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            self.seal(|to, seq| {
                // writing to a Vec cannot fail
                let _ = write!(to, "{{\"event\":\"lost\",\"time\":\"{}\",\"lines\":{lost},\"seq\":{seq}", clock::now());
            });
        }
        Ok(())
    }
}

/// Makes sure that nobody else appends: two chains in one file are none.
fn claim(file: &File) -> std::io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(std::io::Error::other("it is in use by another process")),
        // a file system without locks, where the operator answers for it
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// Appends one line up to its sequence number; the hash and the end follow.
fn line(to: &mut Vec<u8>, event: &str, record: &Record, bytes_out: Option<u64>, seq: u64) {
    to.extend_from_slice(b"{\"event\":\"");
    to.extend_from_slice(event.as_bytes());
    to.push(b'"');
    let opening = to.len();
    // writing to a Vec cannot fail, and a record has no map with keys that are not strings
    let _ = serde_json::to_writer(&mut *to, record);
    if let Some(brace) = to.get_mut(opening) {
        *brace = b',';
    }
    to.pop();
    if let Some(bytes_out) = bytes_out {
        let bytes_in = record.bytes_in.as_ref().map_or(0, |n| n.load(Ordering::Relaxed));
        let took = clock::monotonic().duration_since(record.started).as_micros();
        let _ = write!(to, ",\"bytes_in\":{bytes_in},\"bytes_out\":{bytes_out},\"duration_us\":{took}");
    }
    let _ = write!(to, ",\"seq\":{seq}");
}

/// Where a log that is opened goes on: number and hash of its last whole line, and the length up to there. A line that
/// a crash cut short is left out: nothing was forwarded on it.
fn resume(file: &mut File, length: u64) -> std::io::Result<(u64, [u8; 32], u64)> {
    /// More than the longest line that can be written.
    const LONGEST: u64 = 64 * 1024;
    let from = length.saturating_sub(LONGEST);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(LONGEST).read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|b| *b == b'\n') else {
        if from > 0 {
            return Err(std::io::Error::other("its last 64 KiB hold no whole line; move it away to begin another"));
        }
        if length > 0 {
            file.set_len(0)?;
        }
        return Ok((0, [0; 32], 0));
    };
    let (whole, _) = tail.split_at(end);
    let last = whole.iter().rposition(|b| *b == b'\n').map_or(whole, |at| whole.get(at + 1..).unwrap_or_default());
    let (seq, hash) = last_link(last).ok_or_else(|| {
        std::io::Error::other("its last line is not one of an audit log; move it away to begin another")
    })?;
    let whole = from + end as u64 + 1;
    if whole != length {
        // not where there is nothing to cut: the file may be one that can only grow (chattr +a)
        file.set_len(whole)?;
    }
    Ok((seq, hash, whole))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::gate::audit::{Verdict, verify};

    fn record(path: &str) -> Record {
        Record::open(clock::now(), clock::monotonic(), ([127, 0, 0, 1], 4242).into(), Method::GET, path)
    }

    fn written(name: &str) -> (PathBuf, Vec<String>) {
        let path = std::env::temp_dir().join(format!("wicketgate-audit-{name}-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        for opening in 0..3 {
            let log = Log::open(&path).unwrap();
            log.permit(&record(&format!("/permit/{opening}"))).unwrap();
            log.close(&record("/closed \" and \n"), 7);
        }
        let lines = std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        (path, lines)
    }

    fn verdict(lines: &[String]) -> Verdict {
        verify(lines.iter().map(|l| format!("{l}\n")).collect::<String>().as_bytes()).unwrap()
    }

    #[test]
    fn the_chain_goes_on_over_restarts_and_every_line_is_json() {
        let (_, lines) = written("restart");
        assert_eq!(verdict(&lines), Verdict::Whole { lines: 6 });
        for (n, line) in lines.iter().enumerate() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["seq"], n + 1);
            assert_eq!(line["event"], if n % 2 == 0 { "permit" } else { "request" });
        }
    }

    #[test]
    fn a_changed_removed_or_moved_line_is_found() {
        let (_, lines) = written("tamper");
        let mut changed = lines.clone();
        changed[2] = changed[2].replace("/permit/1", "/permit/9");
        assert!(matches!(verdict(&changed), Verdict::Broken { line: 3, .. }));
        let mut removed = lines.clone();
        removed.remove(1);
        assert!(matches!(verdict(&removed), Verdict::Broken { line: 2, .. }));
        let cut = format!("{}\n{}", lines[0], lines[1].split_at(40).0);
        assert_eq!(verify(cut.as_bytes()).unwrap(), Verdict::Broken { line: 2, why: "its end is missing" });
        let mut moved = lines.clone();
        moved.swap(3, 4);
        assert!(matches!(verdict(&moved), Verdict::Broken { line: 4, .. }));
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_left_out_and_the_chain_goes_on() {
        let (path, lines) = written("torn");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"event\":\"perm").unwrap();
        Log::open(&path).unwrap().permit(&record("/after")).unwrap();
        let after: Vec<String> = std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(after.len(), lines.len() + 1);
        assert_eq!(verdict(&after), Verdict::Whole { lines: 7 });
    }
    #[test]
    fn a_second_process_is_told_that_the_log_is_taken() {
        let path = std::env::temp_dir().join(format!("wicketgate-audit-taken-{}.jsonl", std::process::id()));
        let first = Log::open(&path).unwrap();
        assert!(Log::open(&path).is_err());
        drop(first);
        assert!(Log::open(&path).is_ok());
    }

    #[test]
    fn a_log_that_cannot_be_written_takes_bounded_memory_and_says_what_was_lost() {
        let path = std::env::temp_dir().join(format!("wicketgate-audit-full-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let log = Log::open(&path).unwrap();
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut log.chain.lock().unwrap().file, full);
        let long = record(&"a".repeat(1024));
        let lines = MOST_WAITING / 1024;
        (0..lines).for_each(|_| log.close(&long, 0));
        assert!(log.permit(&long).is_err());
        assert!(log.chain.lock().unwrap().buffer.len() < MOST_WAITING + 64 * 1024);
        let lost = log.chain.lock().unwrap().lost;
        assert!(lost > 0);

        log.chain.lock().unwrap().file = file;
        log.permit(&record("/again")).unwrap();
        drop(log);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(verify(text.as_bytes()).unwrap(), Verdict::Whole { lines: text.lines().count() as u64 });
        assert!(text.contains(&format!("\"lines\":{lost},")) && text.contains("/again"));
        let _ = std::fs::remove_file(&path);
    }
}
