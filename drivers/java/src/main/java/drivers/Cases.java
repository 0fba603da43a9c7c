package drivers;

import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.cql.AsyncResultSet;
import com.datastax.oss.driver.api.core.cql.BatchStatement;
import com.datastax.oss.driver.api.core.cql.BatchStatementBuilder;
import com.datastax.oss.driver.api.core.cql.BoundStatement;
import com.datastax.oss.driver.api.core.cql.ColumnDefinition;
import com.datastax.oss.driver.api.core.cql.DefaultBatchType;
import com.datastax.oss.driver.api.core.cql.PreparedStatement;
import com.datastax.oss.driver.api.core.cql.ResultSet;
import com.datastax.oss.driver.api.core.cql.Row;
import com.datastax.oss.driver.api.core.cql.SimpleStatement;
import com.datastax.oss.driver.api.core.data.CqlDuration;
import com.datastax.oss.driver.api.core.data.TupleValue;
import com.datastax.oss.driver.api.core.data.UdtValue;
import com.datastax.oss.driver.api.core.metadata.Node;
import com.datastax.oss.driver.api.core.type.DataTypes;
import com.datastax.oss.driver.api.core.type.UserDefinedType;
import com.datastax.oss.driver.api.core.uuid.Uuids;
import com.fasterxml.jackson.databind.JsonNode;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;

/** What each driver has to do; a case returns what it adds to its line of output. */
final class Cases {
  private final String run, table, keyspace;
  private final CqlSession session;

  Cases(JsonNode job, CqlSession session) {
    this.run = job.get("run").asText();
    this.table = job.get("table").asText();
    this.keyspace = job.get("keyspace").asText();
    this.session = session;
  }

  static void check(Object got, Object want, String what) {
    if (!Objects.equals(got, want)) {
      throw new AssertionError(what + ": got " + got + ", want " + want);
    }
  }

  Map<String, Object> types() throws Exception {
    UserDefinedType pair = session.getMetadata().getKeyspace(keyspace).orElseThrow().getUserDefinedType("pair").orElseThrow();
    TupleValue tuple = DataTypes.tupleOf(DataTypes.INT, DataTypes.TEXT, DataTypes.DOUBLE).newValue(1, null, 0.25);
    Map<String, Object> values = new LinkedHashMap<>();
    values.put("c_ascii", "ascii");
    values.put("c_bigint", Long.MIN_VALUE);
    values.put("c_blob", ByteBuffer.wrap(new byte[] {0, (byte) 255, (byte) 128}));
    values.put("c_boolean", true);
    values.put("c_date", LocalDate.of(1969, 2, 3));
    values.put("c_decimal", new BigDecimal("-12345678901234567890.000123"));
    values.put("c_double", 1e-300);
    values.put("c_duration", CqlDuration.newInstance(-14, -3, -7200000000001L));
    values.put("c_float", -0.5f);
    values.put("c_inet", InetAddress.getByName("2001:db8::1"));
    values.put("c_int", Integer.MIN_VALUE);
    values.put("c_smallint", Short.MIN_VALUE);
    values.put("c_text", "tëxt €");
    values.put("c_time", LocalTime.of(23, 59, 59, 999_999_999));
    values.put("c_timestamp", Instant.parse("2026-01-02T03:04:05.678Z"));
    values.put("c_timeuuid", Uuids.timeBased());
    values.put("c_tinyint", Byte.MIN_VALUE);
    values.put("c_uuid", UUID.randomUUID());
    values.put("c_varchar", "");
    values.put("c_varint", BigInteger.TWO.pow(100));
    values.put("c_list", List.of(3, 1, 2));
    values.put("c_set", Set.of("a", "b"));
    values.put("c_map", Map.of("k", 1L << 40));
    values.put("c_tuple", tuple);
    values.put("c_udt", pair.newValue(7, "seven"));
    values.put("c_nested", Map.of("k", List.of(1, 2)));
    String names = String.join(", ", values.keySet());
    PreparedStatement insert =
        session.prepare("INSERT INTO types (run, " + names + ") VALUES (?" + ", ?".repeat(values.size()) + ")");
    List<Object> bound = new ArrayList<>(List.of(run));
    bound.addAll(values.values());
    session.execute(insert.bind(bound.toArray()));
    String select = "SELECT " + names + " FROM types WHERE run = ?";
    PreparedStatement prepared = session.prepare(select);
    Row simple = session.execute(SimpleStatement.newInstance(select, run)).one();
    Row row = session.execute(prepared.bind(run)).one();
    for (String name : values.keySet()) {
      check(row.getObject(name), values.get(name), name);
      check(simple.getObject(name), values.get(name), name + " of a simple statement");
    }
    bound = new ArrayList<>(Collections.nCopies(values.size() + 1, null));
    bound.set(0, run + " empty");
    session.execute(insert.bind(bound.toArray()));
    Row empty = session.execute(prepared.bind(run + " empty")).one();
    for (String name : values.keySet()) {
      check(empty.isNull(name), true, "null of " + name);
    }
    return Map.of();
  }

  Map<String, Object> paging() throws Exception {
    PreparedStatement insert = session.prepare("INSERT INTO items (run, id, value) VALUES (?, ?, ?)");
    for (int i = 0; i < 250; i++) {
      session.execute(insert.bind(run, i, "value " + i));
    }
    BoundStatement select = session.prepare("SELECT id, value FROM items WHERE run = ?").bind(run).setPageSize(20);
    int n = 0;
    for (Row row : session.execute(select)) {
      check(List.of(row.getInt(0), row.getString(1)), List.of(n, "value " + n), "row " + n);
      n++;
    }
    check(n, 250, "rows of all pages");
    AsyncResultSet first = session.executeAsync(select).toCompletableFuture().get();
    check(first.remaining(), 20, "rows of the first page");
    ByteBuffer state = first.getExecutionInfo().getPagingState();
    AsyncResultSet second = session.executeAsync(select.setPagingState(state)).toCompletableFuture().get();
    check(second.one().getInt(0), 20, "first row of the page of a kept state");
    return Map.of();
  }

  Map<String, Object> batches() {
    String run = this.run + " batch";
    PreparedStatement insert = session.prepare("INSERT INTO items (run, id, value) VALUES (?, ?, ?)");
    List<List<Object>> want = new ArrayList<>();
    int id = 0;
    for (DefaultBatchType type : List.of(DefaultBatchType.LOGGED, DefaultBatchType.UNLOGGED)) {
      BatchStatementBuilder batch = BatchStatement.builder(type);
      for (int i = 0; i < 3; i++, id++) {
        batch.addStatement(insert.bind(run, id, "prepared"));
        want.add(List.of(id, "prepared"));
      }
      batch.addStatement(SimpleStatement.newInstance("INSERT INTO items (run, id, value) VALUES (?, ?, 'simple')", run, id));
      want.add(List.of(id++, "simple"));
      session.execute(batch.build());
    }
    List<List<Object>> got = new ArrayList<>();
    for (Row row : session.execute(SimpleStatement.newInstance("SELECT id, value FROM items WHERE run = ?", run))) {
      got.add(List.of(row.getInt(0), row.getString(1)));
    }
    check(got, want, "rows of batches");
    PreparedStatement update = session.prepare("UPDATE counters SET n = n + ? WHERE run = ? AND id = ?");
    for (int i = 0; i < 2; i++) {
      session.execute(BatchStatement.newInstance(DefaultBatchType.COUNTER, update.bind(5L, run, 1), update.bind(-2L, run, 2)));
    }
    List<Long> counters = new ArrayList<>();
    for (Row row : session.execute(SimpleStatement.newInstance("SELECT n FROM counters WHERE run = ?", run))) {
      counters.add(row.getLong(0));
    }
    check(counters, List.of(10L, -4L), "counters");
    return Map.of();
  }

  Map<String, Object> lwt() {
    String run = this.run + " lwt";
    PreparedStatement insert = session.prepare("INSERT INTO items (run, id, value) VALUES (?, 1, ?) IF NOT EXISTS");
    check(session.execute(insert.bind(run, "first")).wasApplied(), true, "first insert");
    ResultSet second = session.execute(insert.bind(run, "second"));
    check(second.wasApplied(), false, "second insert");
    check(second.one().getString("value"), "first", "value that the second insert met");
    PreparedStatement update = session.prepare("UPDATE items SET value = ? WHERE run = ? AND id = 1 IF value = ?");
    check(session.execute(update.bind("third", run, "wrong")).wasApplied(), false, "update with a wrong value");
    check(session.execute(update.bind("third", run, "first")).wasApplied(), true, "update with the right value");
    return Map.of();
  }

  Map<String, Object> schema() {
    session.execute("CREATE TABLE " + table + " (id int PRIMARY KEY, b text, d text)");
    PreparedStatement insert = session.prepare("INSERT INTO " + table + " (id, b, d) VALUES (?, 'b', 'd')");
    PreparedStatement select = session.prepare("SELECT * FROM " + table + " WHERE id = ?");
    session.execute(insert.bind(1));
    read(select, 1, Map.of("id", 1, "b", "b", "d", "d"));
    session.execute("ALTER TABLE " + table + " ADD c text");
    session.execute(insert.bind(2));
    read(select, 2, Map.of("id", 2, "b", "b", "d", "d"));
    session.execute(session.prepare("INSERT INTO " + table + " (id, b, c, d) VALUES (?, 'b', 'c', 'd')").bind(3));
    read(select, 3, Map.of("id", 3, "b", "b", "c", "c", "d", "d"));
    Row again = session.execute("SELECT * FROM " + table + " WHERE id = 3").one();
    check(Arrays.asList(again.getInt(0), again.getString(1), again.getString(2), again.getString(3)), List.of(3, "b", "c", "d"), "new statement");
    session.execute("ALTER TABLE " + table + " DROP c");
    session.execute(insert.bind(4));
    read(select, 4, Map.of("id", 4, "b", "b", "d", "d"));
    session.execute("DROP TABLE " + table);
    return Map.of();
  }

  /** Checks all columns that the row has; a driver may leave out one that its PREPARE did not know. */
  private void read(PreparedStatement select, int id, Map<String, Object> want) {
    Row row = session.execute(select.bind(id)).one();
    for (ColumnDefinition column : row.getColumnDefinitions()) {
      String name = column.getName().asInternal();
      check(row.getObject(name), want.get(name), "column " + name + " of row " + id);
    }
  }

  Map<String, Object> tokens() {
    PreparedStatement select = session.prepare("SELECT value FROM keys WHERE run = ? AND id = ?");
    Set<String> used = new TreeSet<>();
    for (int id = 0; id < 60; id++) {
      BoundStatement bound = select.bind(run, id);
      Set<Node> replicas = session.getMetadata().getTokenMap().orElseThrow().getReplicas(keyspace, bound.getRoutingKey());
      Node coordinator = session.execute(bound).getExecutionInfo().getCoordinator();
      check(Set.of(coordinator), replicas, "coordinator of key " + id + " and its replicas");
      used.add(Program.address(coordinator));
    }
    return Map.of("coordinators", used);
  }
}
