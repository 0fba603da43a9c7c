use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use scylla::client::session::Session;
use scylla::policies::retry::{DefaultRetryPolicy, RequestInfo, RetryDecision, RetryPolicy, RetrySession};
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{Job, Outcome, say};

static RETRIES: AtomicUsize = AtomicUsize::new(0);

/// The driver's own policy; it counts how often it said to try again.
#[derive(Debug, Default)]
pub struct CountingRetryPolicy(DefaultRetryPolicy);

impl RetryPolicy for CountingRetryPolicy {
    fn new_session(&self) -> Box<dyn RetrySession> {
        Box::new(Counting(self.0.new_session()))
    }
}

struct Counting(Box<dyn RetrySession>);

impl RetrySession for Counting {
    fn decide_should_retry(&mut self, info: RequestInfo) -> RetryDecision {
        let decision = self.0.decide_should_retry(info);
        if matches!(decision, RetryDecision::RetrySameTarget(_) | RetryDecision::RetryNextTarget(_)) {
            RETRIES.fetch_add(1, Ordering::Relaxed);
        }
        decision
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

/// How requests ended.
#[derive(Default)]
struct Counts {
    kinds: BTreeMap<&'static str, [usize; 2]>, // succeeded, failed
    errors: BTreeMap<String, usize>,
}

/// Goes on until standard input ends.
pub async fn load(job: &Job, session: &Session, input: &mut (impl AsyncRead + Unpin)) -> Outcome {
    let mut read = session.prepare("SELECT value FROM keys WHERE run = ? AND id = ?").await?;
    read.set_is_idempotent(true);
    let mut write = session.prepare("INSERT INTO keys (run, id, value) VALUES (?, ?, ?)").await?;
    write.set_is_idempotent(true);
    let append = session.prepare("UPDATE items SET tags = tags + ? WHERE run = ? AND id = ?").await?;

    let counts = Mutex::new(Counts::default());
    let stop = AtomicBool::new(false);
    let workers = (0..job.workers).map(|w| {
        let (counts, stop, read, write, append) = (&counts, &stop, &read, &write, &append);
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                request(counts, session, "read", read, (&job.run, w)).await;
                request(counts, session, "idempotent", write, (&job.run, w, n.to_string())).await;
                request(counts, session, "other", append, (vec![n % 100], format!("{} {w} {}", job.run, n / 100), n % 100)).await;
                if n == 20 && w == 0 {
                    say("load", Ok(json!({"detail": "running"})));
                }
                tokio::time::sleep(Duration::from_millis(job.pause_ms)).await;
            }
        }
    });
    let ended = async {
        let mut rest = Vec::new();
        let _ = input.read_to_end(&mut rest).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all(workers), ended);

    let counts = counts.into_inner().unwrap();
    let kinds: BTreeMap<_, _> = counts.kinds.iter().map(|(k, [ok, failed])| (k, json!({"ok": ok, "failed": failed}))).collect();
    Ok(json!({"counts": kinds, "errors": counts.errors, "retries": RETRIES.load(Ordering::Relaxed)}))
}

async fn request(counts: &Mutex<Counts>, session: &Session, kind: &'static str, statement: &PreparedStatement, values: impl SerializeRow) {
    let outcome = session.execute_unpaged(statement, values).await;
    let mut counts = counts.lock().unwrap();
    counts.kinds.entry(kind).or_default()[usize::from(outcome.is_err())] += 1;
    if let Err(e) = outcome {
        *counts.errors.entry(format!("{kind}: {e}")).or_default() += 1;
    }
}
