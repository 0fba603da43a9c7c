package drivers;

import com.datastax.oss.driver.api.core.ConsistencyLevel;
import com.datastax.oss.driver.api.core.context.DriverContext;
import com.datastax.oss.driver.api.core.retry.RetryDecision;
import com.datastax.oss.driver.api.core.retry.RetryVerdict;
import com.datastax.oss.driver.api.core.servererrors.CoordinatorException;
import com.datastax.oss.driver.api.core.servererrors.WriteType;
import com.datastax.oss.driver.api.core.session.Request;
import com.datastax.oss.driver.internal.core.retry.DefaultRetryPolicy;
import java.util.concurrent.atomic.AtomicInteger;

/** The driver's own policy; it counts how often it said to try again. */
public final class CountingRetryPolicy extends DefaultRetryPolicy {
  static final AtomicInteger RETRIES = new AtomicInteger();

  public CountingRetryPolicy(DriverContext context, String profile) {
    super(context, profile);
  }

  private static RetryVerdict counted(RetryVerdict verdict) {
    RetryDecision decision = verdict.getRetryDecision();
    if (decision == RetryDecision.RETRY_SAME || decision == RetryDecision.RETRY_NEXT) {
      RETRIES.incrementAndGet();
    }
    return verdict;
  }

  @Override
  public RetryVerdict onReadTimeoutVerdict(Request r, ConsistencyLevel cl, int required, int received, boolean data, int n) {
    return counted(super.onReadTimeoutVerdict(r, cl, required, received, data, n));
  }

  @Override
  public RetryVerdict onWriteTimeoutVerdict(Request r, ConsistencyLevel cl, WriteType type, int required, int received, int n) {
    return counted(super.onWriteTimeoutVerdict(r, cl, type, required, received, n));
  }

  @Override
  public RetryVerdict onUnavailableVerdict(Request r, ConsistencyLevel cl, int required, int alive, int n) {
    return counted(super.onUnavailableVerdict(r, cl, required, alive, n));
  }

  @Override
  public RetryVerdict onRequestAbortedVerdict(Request r, Throwable error, int n) {
    return counted(super.onRequestAbortedVerdict(r, error, n));
  }

  @Override
  public RetryVerdict onErrorResponseVerdict(Request r, CoordinatorException error, int n) {
    return counted(super.onErrorResponseVerdict(r, error, n));
  }
}
