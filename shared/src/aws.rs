//! The way to AWS, for the clients of all its services.

use std::sync::{Arc, OnceLock};

use aws_config::{BehaviorVersion, ConfigLoader};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// What the environment says: region, rights, addresses.
pub(crate) fn environment() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest()).http_client(Https::default())
}

/// Connections that are made when they are needed. The SDK's own way reads all
/// certificates of the machine whenever a client is made, and a function would
/// start by that.
#[derive(Clone, Debug, Default)]
struct Https(Arc<OnceLock<SharedHttpClient>>);

impl HttpClient for Https {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let tls = Provider::Rustls(CryptoMode::AwsLc);
        let make = || Builder::new().tls_provider(tls).build_https();
        let client = self.0.get_or_init(make);
        client.http_connector(settings, components)
    }
}
