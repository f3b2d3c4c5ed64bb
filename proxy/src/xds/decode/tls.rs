//! TLS contexts and secrets.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use weir_xds::envoy::{
    config::core::v3::TransportSocket,
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
        SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
        certificate_validation_context::TrustChainVerification, common_tls_context::ValidationContextType,
        downstream_tls_context::OcspStaplePolicy, secret, subject_alt_name_matcher::SanType,
        tls_parameters::TlsProtocol,
    },
};
use weir_xds::{
    algorithms::{CIPHER_SUITES, CURVES},
    envoy::config::core::v3::transport_socket::ConfigType,
};

use super::{
    Context, DecodeError, Origin,
    error::{At, each, refuse},
    field, matcher, message,
};
use crate::model::{
    self, Algorithms, Certificate, ServerTls, StringMatcher, TlsVersion, TrustBundle, UpstreamTls,
};

const RAW_BUFFER: &str = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// A secret.
pub(super) fn secret(secret: Secret, context: &mut Context) -> Result<model::Secret, DecodeError> {
    if secret.name.is_empty() {
        return Err(DecodeError::new("name must not be empty"));
    }
    match &secret.r#type {
        Some(secret::Type::TlsCertificate(certificate)) => self::certificate(certificate, context)
            .at("tls_certificate")
            .map(model::Secret::Certificate),
        Some(secret::Type::ValidationContext(validation)) => trust(validation, context)
            .at("validation_context")
            .map(model::Secret::TrustBundle),
        None => Err(DecodeError::new(
            "only tls_certificate and validation_context are supported",
        )),
    }
}

fn certificate(certificate: &TlsCertificate, context: &Context) -> Result<Certificate, DecodeError> {
    refuse([
        ("password", !certificate.password.is_empty()),
        (
            "private_key_provider",
            !certificate.private_key_provider.is_empty(),
        ),
        ("pkcs12", !certificate.pkcs12.is_empty()),
    ])?;
    let chain = certificate
        .certificate_chain
        .as_ref()
        .ok_or_else(|| DecodeError::new("missing"))
        .and_then(|source| certificates(&field::data(source, context)?))
        .at("certificate_chain")?;
    let key = certificate
        .private_key
        .as_ref()
        .ok_or_else(|| DecodeError::new("missing"))
        .and_then(|source| {
            PrivateKeyDer::from_pem_slice(&field::data(source, context)?)
                .map_err(|error| DecodeError::new(format!("no usable PEM private key: {error}")))
        })
        .at("private_key")?;
    Ok(Certificate {
        chain,
        key: Arc::new(key),
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, DecodeError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| DecodeError::new(format!("not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(DecodeError::new("no PEM certificate in it"));
    }
    Ok(certificates)
}

/// Roots and names; the roots may be missing when another source gives them.
fn trust(validation: &CertificateValidationContext, context: &Context) -> Result<TrustBundle, DecodeError> {
    refuse([
        (
            "verify_certificate_hash",
            !validation.verify_certificate_hash.is_empty(),
        ),
        (
            "verify_certificate_spki",
            !validation.verify_certificate_spki.is_empty(),
        ),
        (
            "require_signed_certificate_timestamp",
            !validation.require_signed_certificate_timestamp.is_empty(),
        ),
        ("crl", validation.crl.is_some()),
        ("allow_expired_certificate", validation.allow_expired_certificate),
        (
            "trust_chain_verification other than VERIFY_TRUST_CHAIN",
            validation.trust_chain_verification != TrustChainVerification::VerifyTrustChain as i32,
        ),
        (
            "custom_validator_config",
            !validation.custom_validator_config.is_empty(),
        ),
        ("max_verify_depth", !validation.max_verify_depth.is_empty()),
        (
            "ca_certificate_provider_instance",
            !validation.ca_certificate_provider_instance.is_empty(),
        ),
        ("system_root_certs", !validation.system_root_certs.is_empty()),
    ])?;
    let roots = match &validation.trusted_ca {
        Some(source) => field::data(source, context)
            .and_then(|pem| certificates(&pem))
            .at("trusted_ca")?,
        None => Vec::new(),
    };
    let mut names = each(
        "match_typed_subject_alt_names",
        &validation.match_typed_subject_alt_names,
        typed_name,
    )?;
    if names.is_empty() {
        names = each(
            "match_subject_alt_names",
            &validation.match_subject_alt_names,
            matcher::string,
        )?;
    }
    Ok(TrustBundle {
        roots,
        subject_alt_names: names,
    })
}

fn typed_name(name: &SubjectAltNameMatcher) -> Result<StringMatcher, DecodeError> {
    if !matches!(name.san_type(), SanType::Dns | SanType::Uri) {
        return Err(DecodeError::unsupported("san_type other than DNS and URI"));
    }
    name.matcher
        .as_ref()
        .ok_or_else(|| DecodeError::new("matcher is missing"))
        .and_then(matcher::string)
}

/// What both directions share.
struct Common {
    certificate: Option<String>,
    trust_bundle: Option<String>,
    inline_trust: Option<TrustBundle>,
    subject_alt_names: Vec<StringMatcher>,
    alpn: Vec<String>,
    min_version: TlsVersion,
    max_version: TlsVersion,
    algorithms: Algorithms,
}

fn common(common: CommonTlsContext, context: &mut Context) -> Result<Common, DecodeError> {
    refuse([
        (
            "tls_certificates (give it as a secret, and its name in tls_certificate_sds_secret_configs)",
            !common.tls_certificates.is_empty(),
        ),
        (
            "tls_certificate_certificate_provider",
            !common.tls_certificate_certificate_provider.is_empty(),
        ),
        (
            "tls_certificate_certificate_provider_instance",
            !common.tls_certificate_certificate_provider_instance.is_empty(),
        ),
        ("custom_handshaker", !common.custom_handshaker.is_empty()),
        (
            "tls_certificate_provider_instance",
            !common.tls_certificate_provider_instance.is_empty(),
        ),
        (
            "custom_tls_certificate_selector",
            !common.custom_tls_certificate_selector.is_empty(),
        ),
        (
            "more than one of tls_certificate_sds_secret_configs",
            common.tls_certificate_sds_secret_configs.len() > 1,
        ),
    ])?;
    let certificate = common
        .tls_certificate_sds_secret_configs
        .first()
        .map(|config| secret_name(config, context))
        .transpose()
        .at("tls_certificate_sds_secret_configs[0]")?;
    let (trust_bundle, inline) = match &common.validation_context_type {
        None => (None, None),
        Some(ValidationContextType::ValidationContext(validation)) => {
            (None, Some(trust(validation, context).at("validation_context")?))
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            let name = secret_name(config, context).at("validation_context_sds_secret_config")?;
            (Some(name), None)
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let provider = !combined.validation_context_certificate_provider.is_empty()
                || !combined
                    .validation_context_certificate_provider_instance
                    .is_empty();
            refuse([("a certificate provider for validation", provider)])?;
            let inline = combined
                .default_validation_context
                .as_ref()
                .map(|validation| trust(validation, context))
                .transpose()
                .at("combined_validation_context.default_validation_context")?;
            let name = combined
                .validation_context_sds_secret_config
                .as_ref()
                .ok_or_else(|| DecodeError::new("missing"))
                .and_then(|config| secret_name(config, context))
                .at("combined_validation_context.validation_context_sds_secret_config")?;
            (Some(name), inline)
        }
        Some(_) => return Err(DecodeError::unsupported("a certificate provider for validation")),
    };
    let subject_alt_names = inline
        .iter()
        .flat_map(|trust| trust.subject_alt_names.clone())
        .collect();
    let inline_trust = inline.filter(|trust| !trust.roots.is_empty());
    let parameters = common.tls_params.unwrap_or_default();
    let algorithms = algorithms(&parameters, context).at("tls_params")?;
    let (min_version, max_version) = versions(&parameters).at("tls_params")?;
    Ok(Common {
        certificate,
        trust_bundle,
        inline_trust,
        subject_alt_names,
        alpn: common.alpn_protocols,
        min_version,
        max_version,
        algorithms,
    })
}

fn secret_name(config: &SdsSecretConfig, context: &Context) -> Result<String, DecodeError> {
    use weir_xds::envoy::config::core::v3::config_source::ConfigSourceSpecifier as Source;
    if config.name.is_empty() {
        return Err(DecodeError::new("name must not be empty"));
    }
    let source = config
        .sds_config
        .as_ref()
        .and_then(|source| source.config_source_specifier.as_ref());
    match source {
        Some(Source::Path(_) | Source::PathConfigSource(_)) if context.origin == Origin::Stream => Err(
            DecodeError::new("a control plane may not name files of the proxy: serve the secret over ADS"),
        ),
        Some(Source::ApiConfigSource(_)) => {
            Err(DecodeError::unsupported("an SDS server of its own (use ads: {})"))
        }
        _ => Ok(config.name.clone()),
    }
}

/// Algorithms that are not known are left out, as long as one remains: fewer are only ever stricter.
fn algorithms(params: &TlsParameters, context: &mut Context) -> Result<Algorithms, DecodeError> {
    refuse([
        ("signature_algorithms", !params.signature_algorithms.is_empty()),
        ("compliance_policies", !params.compliance_policies.is_empty()),
    ])?;
    let mut chosen = |field, wanted: &[String], known: &[&str]| {
        let is_known = |name: &&String| known.contains(&name.as_str());
        let chosen: Vec<String> = wanted.iter().filter(is_known).cloned().collect();
        if chosen.is_empty() && !wanted.is_empty() {
            return Err(DecodeError::new(format!(
                "none of {field} is known here: {}",
                known.join(", ")
            )));
        }
        context.ignore(field, chosen.len() < wanted.len());
        Ok(chosen)
    };
    Ok(Algorithms {
        cipher_suites: chosen(
            "TlsParameters.cipher_suites",
            &params.cipher_suites,
            &CIPHER_SUITES,
        )?,
        curves: chosen("TlsParameters.ecdh_curves", &params.ecdh_curves, &CURVES)?,
    })
}

fn versions(params: &TlsParameters) -> Result<(TlsVersion, TlsVersion), DecodeError> {
    let min = match TlsProtocol::try_from(params.tls_minimum_protocol_version) {
        // Envoy's own default; older minimums are raised, which only ever refuses more.
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv10 | TlsProtocol::TlSv11 | TlsProtocol::TlSv12) => {
            TlsVersion::V1_2
        }
        Ok(TlsProtocol::TlSv13) => TlsVersion::V1_3,
        Err(_) => return Err(DecodeError::unsupported("this tls_minimum_protocol_version")),
    };
    let max = match TlsProtocol::try_from(params.tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => TlsVersion::V1_3,
        Ok(TlsProtocol::TlSv12) => TlsVersion::V1_2,
        _ => {
            return Err(DecodeError::new(
                "tls_maximum_protocol_version must be TLSv1_2 or TLSv1_3",
            ));
        }
    };
    if min > max {
        return Err(DecodeError::new(
            "the minimum protocol version is above the maximum",
        ));
    }
    Ok((min, max))
}

/// TLS towards a cluster, or `None` for plaintext.
pub(super) fn upstream(
    socket: Option<&TransportSocket>,
    context: &mut Context,
) -> Result<Option<Arc<UpstreamTls>>, DecodeError> {
    let Some(any) = typed(socket)? else {
        return Ok(None);
    };
    let tls: UpstreamTlsContext = message(any, context).at("typed_config")?;
    let common = common(tls.common_tls_context.unwrap_or_default(), context).at("common_tls_context")?;
    if common.trust_bundle.is_none() && common.inline_trust.is_none() {
        return Err(DecodeError::new(
            "common_tls_context has no roots to verify the server with: give a validation context",
        ));
    }
    Ok(Some(Arc::new(UpstreamTls {
        sni: tls.sni,
        alpn: common.alpn,
        certificate: common.certificate,
        trust_bundle: common.trust_bundle,
        inline_trust: common.inline_trust,
        subject_alt_names: common.subject_alt_names,
        min_version: common.min_version,
        max_version: common.max_version,
        algorithms: common.algorithms,
    })))
}

/// TLS towards clients, or `None` where bytes are taken as they are.
pub(super) fn downstream(
    socket: Option<&TransportSocket>,
    context: &mut Context,
) -> Result<Option<Arc<ServerTls>>, DecodeError> {
    let Some(any) = typed(socket)? else {
        return Ok(None);
    };
    let tls: DownstreamTlsContext = message(any, context).at("typed_config")?;
    refuse([
        ("require_sni", tls.require_sni == Some(true)),
        (
            "ocsp_staple_policy",
            tls.ocsp_staple_policy != OcspStaplePolicy::LenientStapling as i32,
        ),
    ])?;
    let common = common(tls.common_tls_context.unwrap_or_default(), context).at("common_tls_context")?;
    let require_client_certificate = tls.require_client_certificate.unwrap_or(false);
    let has_roots = common.trust_bundle.is_some() || common.inline_trust.is_some();
    if require_client_certificate && !has_roots {
        return Err(DecodeError::new(
            "require_client_certificate needs roots: give common_tls_context a validation context",
        ));
    }
    Ok(Some(Arc::new(ServerTls {
        certificate: common.certificate.ok_or_else(|| {
            DecodeError::new("common_tls_context.tls_certificate_sds_secret_configs is missing: a server needs a certificate")
        })?,
        trust_bundle: common.trust_bundle,
        inline_trust: common.inline_trust,
        subject_alt_names: common.subject_alt_names,
        require_client_certificate,
        alpn: common.alpn,
        min_version: common.min_version,
        max_version: common.max_version,
        algorithms: common.algorithms,
    })))
}

/// The config of a transport socket; `None` for none or for the raw one.
fn typed(socket: Option<&TransportSocket>) -> Result<Option<&prost_types::Any>, DecodeError> {
    let Some(socket) = socket else {
        return Ok(None);
    };
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) if any.type_url == RAW_BUFFER => Ok(None),
        Some(ConfigType::TypedConfig(any)) => Ok(Some(any)),
        None if socket.name == "envoy.transport_sockets.raw_buffer" => Ok(None),
        None => Err(DecodeError::new("typed_config is missing")),
    }
}
