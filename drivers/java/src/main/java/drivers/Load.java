package drivers;

import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.cql.PreparedStatement;
import com.fasterxml.jackson.databind.JsonNode;
import java.io.BufferedReader;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Requests that go on until standard input ends. */
final class Load {
  private final JsonNode job;
  private final CqlSession session;
  private final CountDownLatch ended = new CountDownLatch(1);

  // Guarded by this.
  private final Map<String, Map<String, Integer>> counts = new LinkedHashMap<>();
  private final Map<String, Integer> errors = new TreeMap<>();

  Load(JsonNode job, CqlSession session) {
    this.job = job;
    this.session = session;
    for (String kind : List.of("read", "idempotent", "other")) {
      counts.put(kind, new LinkedHashMap<>(Map.of("ok", 0, "failed", 0)));
    }
  }

  Map<String, Object> run(BufferedReader in) throws Exception {
    PreparedStatement read = session.prepare("SELECT value FROM keys WHERE run = ? AND id = ?");
    PreparedStatement write = session.prepare("INSERT INTO keys (run, id, value) VALUES (?, ?, ?)");
    PreparedStatement append = session.prepare("UPDATE items SET tags = tags + ? WHERE run = ? AND id = ?");
    String run = job.get("run").asText();
    List<Thread> workers = new ArrayList<>();
    for (int w = 0; w < job.get("workers").asInt(); w++) {
      int id = w;
      Thread worker =
          new Thread(
              () -> {
                for (int n = 1; !pause(); n++) {
                  request("read", read, run, id);
                  request("idempotent", write, run, id, String.valueOf(n));
                  request("other", append, List.of(n % 100), run + " " + id + " " + n / 100, n % 100);
                  if (n == 20 && id == 0) {
                    try {
                      Program.say("load", true, Map.of("detail", "running"));
                    } catch (Exception e) {
                      throw new IllegalStateException(e);
                    }
                  }
                }
              });
      worker.start();
      workers.add(worker);
    }
    while (in.read() >= 0) {}
    ended.countDown();
    for (Thread worker : workers) {
      worker.join();
    }
    return Map.of("counts", counts, "errors", errors, "retries", CountingRetryPolicy.RETRIES.get());
  }

  private boolean pause() {
    try {
      return ended.await(job.get("pause_ms").asLong(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      return true;
    }
  }

  private void request(String kind, PreparedStatement statement, Object... values) {
    String outcome = "ok";
    String error = null;
    try {
      session.execute(statement.bind(values).setIdempotent(!kind.equals("other")));
    } catch (RuntimeException e) {
      outcome = "failed";
      error = kind + ": " + e;
    }
    synchronized (this) {
      counts.get(kind).merge(outcome, 1, Integer::sum);
      if (error != null) {
        errors.merge(error, 1, Integer::sum);
      }
    }
  }
}
