import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import javax.security.auth.callback.Callback;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerTokenCallback;

/** Shows the token in the environment; there since 2.0. */
public final class Token implements AuthenticateCallbackHandler {
    @Override public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) { }

    @Override public void close() { }

    @Override public void handle(Callback[] callbacks) {
        for (Callback c : callbacks) {
            if (c instanceof OAuthBearerTokenCallback) {
                ((OAuthBearerTokenCallback) c).token(new OAuthBearerToken() {
                    @Override public String value() { return System.getenv("TOKEN"); }
                    @Override public Set<String> scope() { return Collections.emptySet(); }
                    @Override public long lifetimeMs() { return System.currentTimeMillis() + 3_600_000; }
                    @Override public String principalName() { return "matrix"; }
                    @Override public Long startTimeMs() { return System.currentTimeMillis(); }
                });
            }
        }
    }
}
