use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use super::*;
use crate::{
    pipeline::testing::Directory,
    series::{BatchBuilder, Sample},
};

fn open(directory: &Path, max_bytes: u64) -> Spool {
    Spool::open(&Settings { directory: directory.to_owned(), max_bytes }, Metrics::default()).unwrap()
}

/// A batch with one sample whose value says which it is.
fn batch(number: u64, timestamp: i64, padding: usize) -> Batch {
    let mut builder = BatchBuilder::new([0; 16], timestamp, &"test".into());
    let padding = "x".repeat(padding);
    builder.push(&[("__name__", "m"), ("padding", &padding)], &[Sample { timestamp, value: number as f64 }]);
    builder.finish()
}

async fn numbers(spool: &Spool) -> Vec<u64> {
    let (batches, _) = spool.read_after(0, usize::MAX).await.unwrap();
    let mut found = Vec::new();
    for (_, batch) in &batches {
        batch.for_each_series(|_, samples| found.extend(samples.iter().map(|s| s.value as u64))).unwrap();
    }
    found
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_in_order() {
    let directory = Directory::new("spool-restart");
    let spool = open(&directory.0, 1 << 20);
    for number in 1..=10 {
        assert_eq!(spool.append(batch(number, 0, 10)).await.unwrap(), number);
    }
    spool.close().await;
    assert!(matches!(spool.append(batch(11, 0, 10)).await, Err(AppendError::Failed(_))));
    let spool = open(&directory.0, 1 << 20);
    assert_eq!(numbers(&spool).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(spool.append(batch(11, 0, 10)).await.unwrap(), 11);
}

#[tokio::test]
async fn reading_is_bounded_and_goes_on_where_it_stopped() {
    let directory = Directory::new("spool-pages");
    let spool = open(&directory.0, 1 << 20);
    for number in 1..=5 {
        spool.append(batch(number, 0, 1000)).await.unwrap();
    }
    let mut after = 0;
    let mut pages = Vec::new();
    loop {
        let (page, end) = spool.read_after(after, 2500).await.unwrap();
        if page.is_empty() {
            break;
        }
        pages.push(page.len());
        after = end;
    }
    assert_eq!(pages, [2, 2, 1]);
    assert_eq!(spool.read_after(2, 1).await.unwrap().1, 3, "at least one, however large");
}

#[tokio::test]
async fn a_full_spool_says_so_and_only_delivered_batches_make_room() {
    let directory = Directory::new("spool-full");
    let spool = open(&directory.0, 10_000);
    let mut stored = 0;
    while spool.append(batch(stored + 1, 0, 1000)).await.is_ok() {
        stored += 1;
    }
    assert!((8..10).contains(&stored), "{stored} fit");
    assert_eq!(spool.append(batch(99, 0, 1000)).await, Err(AppendError::Full));
    assert_eq!(numbers(&spool).await, (1..=stored).collect::<Vec<_>>());
    spool.release(Released { delivered: 2, keep_from: i64::MIN, expire_before: i64::MIN }).await;
    spool.append(batch(100, 0, 1000)).await.unwrap();
    spool.append(batch(101, 0, 1000)).await.unwrap();
    assert_eq!(spool.append(batch(102, 0, 1000)).await, Err(AppendError::Full));
    assert_eq!(numbers(&spool).await, (3..=stored).chain([100, 101]).collect::<Vec<_>>());
    assert!(spool.depth().bytes <= 10_000);
    // what was delivered is remembered over a restart
    spool.release(Released { delivered: 4, keep_from: i64::MIN, expire_before: i64::MIN }).await;
    spool.close().await;
    let spool = open(&directory.0, 10_000);
    assert_eq!(spool.depth().batches, stored);
    spool.append(batch(103, 0, 1000)).await.unwrap();
    assert_eq!(numbers(&spool).await.first(), Some(&4));
}

#[tokio::test]
async fn a_batch_is_kept_while_a_window_reaches_it_and_sequences_are_never_used_twice() {
    let directory = Directory::new("spool-retention");
    let spool = open(&directory.0, 1 << 20);
    for number in 1..=6 {
        spool.append(batch(number, number as i64 * 1000, 10)).await.unwrap();
    }
    spool.release(Released { delivered: 6, keep_from: 4000, expire_before: 4000 }).await;
    // the append is behind the release in the queue, so that it has been done by then
    spool.append(batch(7, 7000, 10)).await.unwrap();
    assert_eq!(numbers(&spool).await, [4, 5, 6, 7]);
    assert_eq!(spool.metrics.expired.get(), 0);
    spool.release(Released { delivered: 6, keep_from: 100_000, expire_before: 100_000 }).await;
    spool.close().await;
    let spool = open(&directory.0, 1 << 20);
    assert_eq!(numbers(&spool).await, [0u64; 0]);
    assert_eq!(spool.depth(), Depth::default());
    assert_eq!(spool.append(batch(8, 8000, 10)).await.unwrap(), 8);
}

#[tokio::test]
async fn what_expires_undelivered_is_counted() {
    let directory = Directory::new("spool-expired");
    let spool = open(&directory.0, 1 << 20);
    for number in 1..=600 {
        spool.append(batch(number, 1000, 10)).await.unwrap();
    }
    spool.release(Released { delivered: 100, keep_from: 2000, expire_before: 2000 }).await;
    spool.close().await;
    assert_eq!(spool.metrics.expired.get(), 500);
    assert_eq!(spool.depth().batches, 0);
}

#[tokio::test]
async fn many_appends_share_a_sync() {
    let directory = Directory::new("spool-group");
    let spool = open(&directory.0, 1 << 30);
    let mut appends = tokio::task::JoinSet::new();
    for number in 0..500 {
        let spool = spool.clone();
        appends.spawn(async move { spool.append(batch(number, 0, 10)).await.unwrap() });
    }
    let mut sequences = appends.join_all().await;
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=500).collect::<Vec<_>>());
    assert!(spool.metrics.commits.get() < 250, "{} syncs for 500 appends", spool.metrics.commits.get());
}

#[tokio::test]
async fn waiting_ends_with_the_next_batch() {
    let directory = Directory::new("spool-wait");
    let spool = open(&directory.0, 1 << 20);
    assert_eq!(spool.last_sequence(), 0);
    let (waited, stored) = tokio::join!(spool.wait_beyond(0), spool.append(batch(1, 0, 1)));
    assert!(waited && stored == Ok(1) && spool.last_sequence() == 1);
}

#[tokio::test]
async fn a_second_process_cannot_have_it() {
    let directory = Directory::new("spool-lock");
    let _spool = open(&directory.0, 1 << 20);
    let settings = Settings { directory: directory.0.clone(), max_bytes: 1 };
    let refused = Spool::open(&settings, Metrics::default()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
}

#[tokio::test]
async fn a_store_that_failed_is_opened_again_and_has_what_was_acknowledged() {
    let directory = Directory::new("spool-reopen");
    let spool = open(&directory.0, 1 << 20);
    spool.append(batch(1, 0, 10)).await.unwrap();
    // what an I/O error leaves behind: a store that answers nothing any more
    spool.shared.discard();
    assert!(matches!(spool.append(batch(2, 0, 10)).await, Err(AppendError::Failed(_))));
    assert!(spool.read_after(0, usize::MAX).await.is_err());
    let mut failures = 1;
    while spool.append(batch(3, 0, 10)).await.is_err() {
        failures += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(spool.metrics.failures.get(), failures);
    assert_eq!(numbers(&spool).await, [1, 3]);
}

const CRASH_DIRECTORY: &str = "WICKETGATE_TEST_CRASH_DIRECTORY";

/// The child of the test below: appends from several tasks and prints each number once it is acknowledged.
#[tokio::test]
#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a child process that talks to its test")]
async fn crash_child() {
    let Ok(directory) = std::env::var(CRASH_DIRECTORY) else { return };
    let spool = open(Path::new(&directory), 1 << 30);
    let first = spool.last_sequence() * 1000;
    let mut appends = tokio::task::JoinSet::new();
    for task in 0..4 {
        let spool = spool.clone();
        appends.spawn(async move {
            for number in (first + task..).step_by(4) {
                spool.append(batch(number, 0, 3000)).await.unwrap();
                println!("acknowledged {number}");
            }
        });
    }
    appends.join_all().await;
}

#[tokio::test]
async fn kill_9_at_any_moment_loses_nothing_acknowledged() {
    let directory = Directory::new("spool-crash");
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["pipeline::spool::tests::crash_child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CRASH_DIRECTORY, &directory.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            // a line is one write to the pipe, so that the kill cannot cut one in two
            let line = line.unwrap();
            let Some(number) = line.split("acknowledged ").nth(1) else { continue };
            acknowledged.push(number.parse::<u64>().unwrap());
            seen += 1;
            if seen == 40 + round * 17 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 40, "the child stopped early");
        let spool = open(&directory.0, 1 << 30);
        let stored: std::collections::BTreeSet<u64> = numbers(&spool).await.into_iter().collect();
        spool.close().await;
        for number in &acknowledged {
            assert!(stored.contains(number), "{number} was acknowledged and is gone");
        }
    }
}
