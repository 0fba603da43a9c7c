//! The cases of README.md with the Rust driver.

mod cases;
mod connect;
mod load;

use std::error::Error;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

pub type Outcome = Result<Value, Box<dyn Error + Send + Sync>>;

#[derive(Deserialize)]
pub struct Job {
    contacts: Vec<String>,
    port: u16,
    username: String,
    password: String,
    datacenter: String,
    keyspace: String,
    compression: String,
    tls: Option<Tls>,
    cases: Vec<String>,
    run: String,
    table: String,
    workers: i32,
    pause_ms: u64,
}

#[derive(Deserialize)]
struct Tls {
    ca: String,
    cert: String,
    key: String,
}

pub fn say(name: &str, outcome: Outcome) {
    let mut line = json!({"case": name, "ok": outcome.is_ok()});
    match outcome {
        Ok(Value::Object(more)) => line.as_object_mut().unwrap().extend(more),
        Ok(_) => {}
        Err(e) => line["detail"] = json!(e.to_string()),
    }
    println!("{line}");
}

#[tokio::main]
async fn main() {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut text = String::new();
    input.read_line(&mut text).await.expect("read the job");
    let job: Job = serde_json::from_str(&text).expect("read the job");
    let session = match connect::connect(&job).await {
        Ok(session) => session,
        Err(e) => return say("connect", Err(e)),
    };
    for name in &job.cases {
        let outcome = match name.as_str() {
            "connect" => connect::connected(&session).await,
            "types" => cases::types(&job, &session).await,
            "paging" => cases::paging(&job, &session).await,
            "batches" => cases::batches(&job, &session).await,
            "lwt" => cases::lwt(&job, &session).await,
            "schema" => cases::schema(&job, &session).await,
            "tokens" => cases::tokens(&job, &session).await,
            "load" => load::load(&job, &session, &mut input).await,
            _ => Err("no such case".into()),
        };
        say(name, outcome);
    }
}
