use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::ControlFlow;

use futures::future::try_join_all;
use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{Counter, CqlDate, CqlDecimal, CqlDuration, CqlTime, CqlTimestamp, CqlTimeuuid, CqlValue, CqlVarint, Row};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Job, Outcome};

fn check<T: PartialEq + Debug>(got: T, want: T, what: &str) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}")) }
}

pub async fn types(job: &Job, session: &Session) -> Outcome {
    let values = [
        ("c_ascii", CqlValue::Ascii("ascii".into())),
        ("c_bigint", CqlValue::BigInt(i64::MIN)),
        ("c_blob", CqlValue::Blob(vec![0, 255, 128])),
        ("c_boolean", CqlValue::Boolean(true)),
        ("c_date", CqlValue::Date(CqlDate((1 << 31) - 332))),
        ("c_decimal", CqlValue::Decimal(CqlDecimal::from_signed_be_bytes_slice_and_exponent(&[0xFE, 1, 2, 3, 4, 5, 6, 7, 8, 9], 6))),
        ("c_double", CqlValue::Double(1e-300)),
        ("c_duration", CqlValue::Duration(CqlDuration { months: -14, days: -3, nanoseconds: -7_200_000_000_001 })),
        ("c_float", CqlValue::Float(-0.5)),
        ("c_inet", CqlValue::Inet("2001:db8::1".parse::<IpAddr>()?)),
        ("c_int", CqlValue::Int(i32::MIN)),
        ("c_smallint", CqlValue::SmallInt(i16::MIN)),
        ("c_text", CqlValue::Text("tëxt €".into())),
        ("c_time", CqlValue::Time(CqlTime(86_399_999_999_999))),
        ("c_timestamp", CqlValue::Timestamp(CqlTimestamp(1_767_323_045_678))),
        ("c_timeuuid", CqlValue::Timeuuid(CqlTimeuuid::from_bytes(*Uuid::parse_str("8e14e760-7fa8-11eb-bc66-000000000001")?.as_bytes()))),
        ("c_tinyint", CqlValue::TinyInt(i8::MIN)),
        ("c_uuid", CqlValue::Uuid(Uuid::parse_str("0f0e0d0c-0b0a-4908-8706-050403020100")?)),
        ("c_varchar", CqlValue::Text(String::new())),
        ("c_varint", CqlValue::Varint(CqlVarint::from_signed_bytes_be_slice(&[0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))),
        ("c_list", CqlValue::List([3, 1, 2].map(CqlValue::Int).into())),
        ("c_set", CqlValue::Set(["a", "b"].map(|s| CqlValue::Text(s.into())).into())),
        ("c_map", CqlValue::Map(vec![(CqlValue::Text("k".into()), CqlValue::BigInt(1 << 40))])),
        ("c_tuple", CqlValue::Tuple(vec![Some(CqlValue::Int(1)), None, Some(CqlValue::Double(0.25))])),
        (
            "c_udt",
            CqlValue::UserDefinedType {
                keyspace: job.keyspace.clone(),
                name: "pair".into(),
                fields: vec![("first".into(), Some(CqlValue::Int(7))), ("second".into(), Some(CqlValue::Text("seven".into())))],
            },
        ),
        ("c_nested", CqlValue::Map(vec![(CqlValue::Text("k".into()), CqlValue::List([1, 2].map(CqlValue::Int).into()))])),
    ];
    let names = values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let insert = format!("INSERT INTO types (run, {names}) VALUES (?{})", ", ?".repeat(values.len()));
    let insert = session.prepare(insert).await?;
    let bound = |run: &str, null: bool| -> Vec<Option<CqlValue>> {
        let of_columns = values.iter().map(|(_, v)| if null { None } else { Some(v.clone()) });
        [Some(CqlValue::Text(run.into()))].into_iter().chain(of_columns).collect()
    };
    let select = format!("SELECT {names} FROM types WHERE run = ?");
    let prepared = session.prepare(select.as_str()).await?;
    session.execute_unpaged(&insert, bound(&job.run, false)).await?;
    for result in [
        session.execute_unpaged(&prepared, (&job.run,)).await?,
        session.query_unpaged(select.as_str(), (&job.run,)).await?,
    ] {
        let row = one(result)?;
        for ((name, want), got) in values.iter().zip(row.columns) {
            check(got, Some(want.clone()), name)?;
        }
    }
    let empty = format!("{} empty", job.run);
    session.execute_unpaged(&insert, bound(&empty, true)).await?;
    let row = one(session.execute_unpaged(&prepared, (&empty,)).await?)?;
    check(row.columns, vec![None; values.len()], "nulls")?;
    Ok(Value::Null)
}

fn one(result: QueryResult) -> Result<Row, Box<dyn std::error::Error + Send + Sync>> {
    Ok(result.into_rows_result()?.single_row::<Row>()?)
}

pub async fn paging(job: &Job, session: &Session) -> Outcome {
    let insert = session.prepare("INSERT INTO items (run, id, value) VALUES (?, ?, ?)").await?;
    try_join_all((0..250).map(|i| session.execute_unpaged(&insert, (&job.run, i, format!("value {i}"))))).await?;
    let mut select = session.prepare("SELECT id, value FROM items WHERE run = ?").await?;
    select.set_page_size(20);
    let mut state = PagingState::start();
    let (mut got, mut pages) = (Vec::new(), 0);
    loop {
        let (result, next) = session.execute_single_page(&select, (&job.run,), state).await?;
        for row in result.into_rows_result()?.rows::<(i32, String)>()? {
            got.push(row?);
        }
        pages += 1;
        match next.into_paging_control_flow() {
            ControlFlow::Break(()) => break,
            ControlFlow::Continue(next) => state = next,
        }
    }
    check(got, (0..250).map(|i| (i, format!("value {i}"))).collect(), "all pages")?;
    check(pages >= 13, true, "thirteen pages")?;
    Ok(Value::Null)
}

pub async fn batches(job: &Job, session: &Session) -> Outcome {
    let run = format!("{} batch", job.run);
    let insert = session.prepare("INSERT INTO items (run, id, value) VALUES (?, ?, ?)").await?;
    let simple = "INSERT INTO items (run, id, value) VALUES (?, ?, 'simple')";
    let mut want = Vec::new();
    for (kind, first) in [(BatchType::Logged, 0), (BatchType::Unlogged, 10)] {
        let mut batch = Batch::new(kind);
        batch.append_statement(insert.clone());
        batch.append_statement(insert.clone());
        batch.append_statement(simple);
        session.batch(&batch, ((&run, first, "prepared"), (&run, first + 1, "prepared"), (&run, first + 2))).await?;
        want.extend([(first, "prepared".to_string()), (first + 1, "prepared".to_string()), (first + 2, "simple".to_string())]);
    }
    let rows = session.query_unpaged("SELECT id, value FROM items WHERE run = ?", (&run,)).await?.into_rows_result()?;
    check(rows.rows::<(i32, String)>()?.collect::<Result<Vec<_>, _>>()?, want, "rows of batches")?;

    let update = session.prepare("UPDATE counters SET n = n + ? WHERE run = ? AND id = ?").await?;
    for _ in 0..2 {
        let mut batch = Batch::new(BatchType::Counter);
        batch.append_statement(update.clone());
        batch.append_statement(update.clone());
        session.batch(&batch, ((Counter(5), &run, 1), (Counter(-2), &run, 2))).await?;
    }
    let rows = session.query_unpaged("SELECT id, n FROM counters WHERE run = ?", (&run,)).await?.into_rows_result()?;
    let got = rows.rows::<(i32, Counter)>()?.collect::<Result<Vec<_>, _>>()?;
    check(got, vec![(1, Counter(10)), (2, Counter(-4))], "counters")?;
    Ok(Value::Null)
}

pub async fn lwt(job: &Job, session: &Session) -> Outcome {
    let run = format!("{} lwt", job.run);
    // [applied] is the first column; of the others, value is looked for.
    let attempt = async |statement: &PreparedStatement, values: &(dyn SerializeRow + Sync)| -> Result<(bool, Option<String>), Box<dyn std::error::Error + Send + Sync>> {
        let result = session.execute_unpaged(statement, values).await?.into_rows_result()?;
        let at = result.column_specs().get_by_name("value").map(|(i, _)| i);
        let row = result.single_row::<Row>()?;
        let applied = row.columns[0].as_ref().and_then(CqlValue::as_boolean).unwrap_or_default();
        Ok((applied, at.and_then(|i| row.columns[i].as_ref()?.as_text().cloned())))
    };
    let insert = session.prepare("INSERT INTO items (run, id, value) VALUES (?, 1, ?) IF NOT EXISTS").await?;
    check(attempt(&insert, &(&run, "first")).await?.0, true, "first insert")?;
    check(attempt(&insert, &(&run, "second")).await?, (false, Some("first".into())), "second insert")?;
    let update = session.prepare("UPDATE items SET value = ? WHERE run = ? AND id = 1 IF value = ?").await?;
    check(attempt(&update, &("third", &run, "wrong")).await?, (false, Some("first".into())), "update with a wrong value")?;
    check(attempt(&update, &("third", &run, "first")).await?.0, true, "update with the right value")?;
    Ok(Value::Null)
}

pub async fn schema(job: &Job, session: &Session) -> Outcome {
    let table = &job.table;
    session.query_unpaged(format!("CREATE TABLE {table} (id int PRIMARY KEY, b text, d text)"), ()).await?;
    let insert = session.prepare(format!("INSERT INTO {table} (id, b, d) VALUES (?, 'b', 'd')")).await?;
    let select = session.prepare(format!("SELECT * FROM {table} WHERE id = ?")).await?;
    // A driver may leave out a column that its PREPARE did not know.
    let read = async |id: i32, c: Option<&str>| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let result = session.execute_unpaged(&select, (id,)).await?.into_rows_result()?;
        let names: Vec<String> = result.column_specs().iter().map(|s| s.name().to_string()).collect();
        for (name, got) in names.iter().zip(result.single_row::<Row>()?.columns) {
            let text = |s: &str| Some(CqlValue::Text(s.into()));
            let want = match name.as_str() {
                "id" => Some(CqlValue::Int(id)),
                "c" => c.and_then(text),
                other => text(other),
            };
            check(got, want, name)?;
        }
        Ok(())
    };
    session.execute_unpaged(&insert, (1,)).await?;
    read(1, None).await?;
    session.query_unpaged(format!("ALTER TABLE {table} ADD c text"), ()).await?;
    session.execute_unpaged(&insert, (2,)).await?;
    read(2, None).await?;
    session.query_unpaged(format!("INSERT INTO {table} (id, b, c, d) VALUES (3, 'b', 'c', 'd')"), ()).await?;
    read(3, Some("c")).await?;
    let again = one(session.query_unpaged(format!("SELECT * FROM {table} WHERE id = 3"), ()).await?)?;
    check(again.columns.len(), 4, "columns of a new statement")?;
    session.query_unpaged(format!("ALTER TABLE {table} DROP c"), ()).await?;
    session.execute_unpaged(&insert, (4,)).await?;
    read(4, None).await?;
    session.query_unpaged(format!("DROP TABLE {table}"), ()).await?;
    Ok(Value::Null)
}

pub async fn tokens(job: &Job, session: &Session) -> Outcome {
    let select = session.prepare("SELECT value FROM keys WHERE run = ? AND id = ?").await?;
    let state = session.get_cluster_state();
    let mut used = BTreeSet::new();
    for id in 0..60 {
        let want: Vec<IpAddr> =
            state.get_endpoints(&job.keyspace, "keys", &(&job.run, id))?.iter().map(|(node, _)| node.address.ip()).collect();
        let result = session.execute_unpaged(&select, (&job.run, id)).await?;
        let got = result.request_coordinator().connection_address().ip();
        check(vec![got], want, &format!("coordinator of key {id} and its replicas"))?;
        used.insert(got.to_string());
    }
    Ok(json!({"coordinators": used}))
}
