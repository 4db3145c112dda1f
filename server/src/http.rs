//! Health, metrics and version over HTTP: `/livez /readyz /metrics /version`, and the routes of the router.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use crate::routing::{self, Routing};
use crate::vitals::Vitals;

/// What the HTTP listener answers from.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) prometheus: PrometheusHandle,
    pub(crate) routing: Routing,
}

/// Serves until `shutdown` fires.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    state: HttpState,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = routing::routes(state.routing.clone());
    let app = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .with_state(state)
        .merge(router);
    axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn ready(State(state): State<HttpState>) -> (StatusCode, String) {
    match state.vitals.not_ready_because() {
        None => (StatusCode::OK, "ready\n".into()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    state.vitals.refresh_metrics();
    state.routing.refresh_metrics();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], state.prometheus.render())
}

async fn version() -> impl IntoResponse {
    let body = serde_json::json!({
        "name": "hearthd",
        "version": env!("CARGO_PKG_VERSION"),
        "data_format": crate::identity::FORMAT,
    });
    axum::Json(body)
}
