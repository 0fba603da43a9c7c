package drivers;

import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.CqlSessionBuilder;
import com.datastax.oss.driver.api.core.config.DefaultDriverOption;
import com.datastax.oss.driver.api.core.config.DriverConfigLoader;
import com.datastax.oss.driver.api.core.config.ProgrammaticDriverConfigLoaderBuilder;
import com.datastax.oss.driver.api.core.metadata.Node;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Duration;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.Map;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** The cases of README.md with the Java driver. */
public final class Program {
  private static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] args) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    JsonNode job = JSON.readTree(in.readLine());
    try (CqlSession session = connect(job)) {
      Cases cases = new Cases(job, session);
      for (JsonNode name : job.get("cases")) {
        try {
          Map<String, Object> more =
              switch (name.asText()) {
                case "connect" -> connected(session);
                case "types" -> cases.types();
                case "paging" -> cases.paging();
                case "batches" -> cases.batches();
                case "lwt" -> cases.lwt();
                case "schema" -> cases.schema();
                case "tokens" -> cases.tokens();
                case "load" -> new Load(job, session).run(in);
                default -> throw new IllegalArgumentException("no such case");
              };
          say(name.asText(), true, more);
        } catch (Exception | AssertionError e) {
          say(name.asText(), false, Map.of("detail", String.valueOf(e)));
        }
      }
    } catch (Exception e) {
      say("connect", false, Map.of("detail", String.valueOf(e)));
    }
  }

  static synchronized void say(String name, boolean ok, Map<String, Object> more) throws Exception {
    Map<String, Object> line = new LinkedHashMap<>();
    line.put("case", name);
    line.put("ok", ok);
    line.putAll(more);
    System.out.println(JSON.writeValueAsString(line));
  }

  private static Map<String, Object> connected(CqlSession session) {
    Cases.check(session.execute("SELECT key FROM system.local").all().size(), 1, "rows of system.local");
    return Map.of("version", session.getContext().getProtocolVersion().getCode(), "hosts", session.getMetadata().getNodes().size());
  }

  private static CqlSession connect(JsonNode job) throws Exception {
    ProgrammaticDriverConfigLoaderBuilder config =
        DriverConfigLoader.programmaticBuilder()
            .withDuration(DefaultDriverOption.REQUEST_TIMEOUT, Duration.ofSeconds(30))
            .withDuration(DefaultDriverOption.CONNECTION_INIT_QUERY_TIMEOUT, Duration.ofSeconds(30))
            .withDuration(DefaultDriverOption.CONTROL_CONNECTION_TIMEOUT, Duration.ofSeconds(30))
            .withClass(DefaultDriverOption.RETRY_POLICY_CLASS, CountingRetryPolicy.class)
            .withString(DefaultDriverOption.LOAD_BALANCING_LOCAL_DATACENTER, job.get("datacenter").asText());
    if (job.get("version").asInt() != 0) {
      config.withString(DefaultDriverOption.PROTOCOL_VERSION, "V" + job.get("version").asInt());
    }
    if (!job.get("compression").asText().isEmpty()) {
      config.withString(DefaultDriverOption.PROTOCOL_COMPRESSION, job.get("compression").asText());
    }
    CqlSessionBuilder builder =
        CqlSession.builder()
            .withConfigLoader(config.build())
            .withAuthCredentials(job.get("username").asText(), job.get("password").asText())
            .withKeyspace(job.get("keyspace").asText());
    for (JsonNode host : job.get("contacts")) {
      builder.addContactPoint(new InetSocketAddress(host.asText(), job.get("port").asInt()));
    }
    if (!job.get("tls").isNull()) {
      builder.withSslContext(context(job.get("tls")));
    }
    return builder.build();
  }

  /** Checks the authority of a certificate, and not its name. */
  private static SSLContext context(JsonNode files) throws Exception {
    KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
    trusted.load(null, null);
    trusted.setCertificateEntry("ca", certificate(files.get("ca").asText()));
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(trusted);
    KeyManagerFactory keys = null;
    if (!files.get("cert").asText().isEmpty()) {
      String pem = Files.readString(Path.of(files.get("key").asText())).replaceAll("-----[A-Z ]+-----|\\s", "");
      KeyStore own = KeyStore.getInstance(KeyStore.getDefaultType());
      own.load(null, null);
      own.setKeyEntry(
          "own",
          KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem))),
          new char[0],
          new Certificate[] {certificate(files.get("cert").asText())});
      keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
      keys.init(own, new char[0]);
    }
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(keys == null ? null : keys.getKeyManagers(), trust.getTrustManagers(), null);
    return context;
  }

  private static Certificate certificate(String file) throws Exception {
    try (FileInputStream in = new FileInputStream(file)) {
      return CertificateFactory.getInstance("X.509").generateCertificate(in);
    }
  }

  /** The address by which the other programs name a node. */
  static String address(Node node) {
    return ((InetSocketAddress) node.getEndPoint().resolve()).getAddress().getHostAddress();
  }
}
