//! `/tls/1.0.0` of libp2p: TLS 1.3 in which both sides show the certificate of their identity.
//!
//! AES comes first, which libp2p's own upgrade puts behind ChaCha20: the two understand each other, and between two
//! nodes with AES instructions it is several times faster. Deliberately absent: resumption, early data, key logs.

pub(crate) mod certificate;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider, sign};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError as Refused, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme, version,
};

use self::certificate::{Certificate, CertificateError};
use crate::net::NetError;

/// The name under which both sides agree on it.
pub(crate) const PROTOCOL: &str = "/tls/1.0.0";
const ALPN: &[u8] = b"libp2p";

/// The settings of both roles.
#[derive(Clone)]
pub(crate) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// Makes a certificate for `identity` and settings with it.
    pub(crate) fn new(identity: &Keypair) -> Result<Self, NetError> {
        let wrong = |error: &dyn std::error::Error| NetError::Identity(error.to_string());
        let (certificate, key) = certificate::generate(identity).map_err(|error| wrong(&error))?;
        let key = sign::any_ecdsa_type(&PrivateKeyDer::from(key)).map_err(|error| wrong(&error))?;
        let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        let provider = Arc::new(provider());

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| wrong(&error))?
            .with_client_cert_verifier(Arc::new(Identities))
            .with_cert_resolver(certified.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| wrong(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Identities))
            .with_client_cert_resolver(certified);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }

    /// The handshake of the side that listened.
    pub(crate) async fn accept<C: AsyncRead + AsyncWrite + Unpin>(&self, io: C) -> io::Result<(PeerId, TlsStream<C>)> {
        let stream = TlsAcceptor::from(self.server.clone()).accept(io).await?;
        let peer = peer(stream.get_ref().1.peer_certificates())?;
        Ok((peer, stream.into()))
    }

    /// The handshake of the side that dialed.
    pub(crate) async fn connect<C: AsyncRead + AsyncWrite + Unpin>(&self, io: C) -> io::Result<(PeerId, TlsStream<C>)> {
        // Peers have no names; this one is never sent.
        let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        let stream = TlsConnector::from(self.client.clone()).connect(nobody, io).await?;
        let peer = peer(stream.get_ref().1.peer_certificates())?;
        Ok((peer, stream.into()))
    }
}

fn peer(certificates: Option<&[CertificateDer<'_>]>) -> io::Result<PeerId> {
    match certificates {
        Some([certificate]) => match Certificate::read(certificate) {
            Ok(certificate) => Ok(certificate.peer),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
        // The handshake does not end without one.
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a peer without a certificate")),
    }
}

/// TLS with the suites in the order that suits this CPU.
fn provider() -> CryptoProvider {
    let aes = [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
    let chacha = [cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    let cipher_suites = if has_aes() { [&aes[..], &chacha].concat() } else { [&chacha[..], &aes].concat() };
    CryptoProvider { cipher_suites, ..default_provider() }
}

/// Whether this CPU has instructions for AES-GCM.
pub(crate) fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Takes any peer that proves its identity; which one it may be is decided by who asked for the connection.
#[derive(Debug)]
struct Identities;

impl Identities {
    fn check(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::InvalidCertificate(Refused::BadEncoding));
        }
        Certificate::read(certificate).map(|_| ()).map_err(refused)
    }

    fn check_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::read(certificate).map_err(refused)?;
        certificate.verify(signed.scheme, message, signed.signature()).map_err(refused)?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn refused(error: CertificateError) -> Error {
    Error::InvalidCertificate(match error {
        CertificateError::Malformed(_) => Refused::BadEncoding,
        CertificateError::BadSignature(_) => Refused::BadSignature,
        other => Refused::Other(OtherError(Arc::new(other))),
    })
}

/// The handshake is TLS 1.3 only, so this is never asked; if it were, the answer is no.
fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::InvalidCertificate(Refused::BadSignature))
}

impl ServerCertVerifier for Identities {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check(certificate, others)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        certificate::SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Identities {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check(certificate, others)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        certificate::SCHEMES.to_vec()
    }
}
