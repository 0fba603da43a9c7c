use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::client::Compression;
use scylla::statement::Consistency;
use serde_json::json;

use crate::load::CountingRetryPolicy;
use crate::{Job, Outcome, Tls};

pub async fn connect(job: &Job) -> Result<Session, Box<dyn std::error::Error + Send + Sync>> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalOne)
        .request_timeout(Some(Duration::from_secs(30)))
        .retry_policy(Arc::new(CountingRetryPolicy::default()))
        .build();
    let compression = match job.compression.as_str() {
        "" => None,
        "lz4" => Some(Compression::Lz4),
        "snappy" => Some(Compression::Snappy),
        other => return Err(format!("no compression {other}").into()),
    };
    let tls = job.tls.as_ref().map(client_config).transpose()?;
    let session = SessionBuilder::new()
        .known_nodes(job.contacts.iter().map(|host| format!("{host}:{}", job.port)))
        .user(&job.username, &job.password)
        .use_keyspace(&job.keyspace, false)
        .prefer_datacenter(job.datacenter.clone())
        .compression(compression)
        .tls_context(tls.map(Arc::new))
        .connection_timeout(Duration::from_secs(30))
        .default_execution_profile_handle(profile.into_handle())
        .build()
        .await?;
    Ok(session)
}

/// The driver speaks version 4 and no other.
pub async fn connected(session: &Session) -> Outcome {
    session.query_unpaged("SELECT key FROM system.local", ()).await?.into_rows_result()?.single_row::<(String,)>()?;
    Ok(json!({"version": 4, "hosts": session.get_cluster_state().get_nodes_info().len()}))
}

fn client_config(files: &Tls) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca)?)?;
    let verifier = Arc::new(Authority { roots, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.dangerous().with_custom_certificate_verifier(verifier);
    if files.cert.is_empty() {
        return Ok(config.with_no_client_auth());
    }
    let chain = CertificateDer::pem_slice_iter(&fs::read(&files.cert)?).collect::<Result<Vec<_>, _>>()?;
    Ok(config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key)?)?)
}

/// Checks the authority of a certificate, and not its name.
#[derive(Debug)]
struct Authority {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Authority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let cert = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&cert, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
