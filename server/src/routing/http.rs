//! The routes that router authors know: `/register /unregister /workers /query /query_by_hash /health`.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query as Parameters, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_proto::limits::{ROUTER_REQUEST_BYTES_MAX, ROUTER_SHORT_REQUEST_BYTES};
use hearth_router::catalog::{Answer, Query, QueryError, SelectError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::requests::{Ask, Chain, Question, Register, RequestError, Unregister, model_and_salt};
use super::{FollowError, Routing, answers};

/// The routes, to be put beside others.
pub(crate) fn routes(routing: Routing) -> Router {
    Router::new()
        .route("/register", post(register))
        .route("/unregister", post(unregister))
        .route("/workers", get(workers))
        .route("/query", post(query))
        .route("/query_by_hash", post(query_by_hash))
        .route("/health", get(|| async { "alive\n" }))
        .layer(DefaultBodyLimit::max(ROUTER_REQUEST_BYTES_MAX))
        .with_state(routing)
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error("no worker of this name is followed for this model: see /workers")]
    UnknownWorker,
    #[error(transparent)]
    Select(#[from] SelectError),
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl Failure {
    fn code(&self) -> StatusCode {
        match self {
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Follow(FollowError::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Follow(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::UnknownWorker | Self::Select(SelectError::UnknownPool) => StatusCode::NOT_FOUND,
            Self::Select(SelectError::Ambiguous { .. }) => StatusCode::BAD_REQUEST,
            Self::Query(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.code(), Json(json!({ "error": self.to_string() }))).into_response()
    }
}

/// Reads a body, whatever it says that it is: some clients say nothing.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    Ok(serde_json::from_slice(body)?)
}

async fn register(State(routing): State<Routing>, body: Bytes) -> Result<Response, Failure> {
    let registration = read::<Register>(&body)?.understand()?;
    let instance = registration.worker.instance().to_owned();
    routing.register(registration).await?;
    let said = json!({ "status": "registered successfully", "instance_id": instance });
    Ok((StatusCode::CREATED, Json(said)).into_response())
}

async fn unregister(State(routing): State<Routing>, body: Bytes) -> Result<Response, Failure> {
    let meant = read::<Unregister>(&body)?.understand()?;
    let gone = routing.unregister(|pool, worker| meant.has(pool, worker)).await;
    if gone.is_empty() {
        return Err(Failure::UnknownWorker);
    }
    let named = gone
        .iter()
        .map(|(pool, worker)| format!("{}|{}|{}", worker.instance(), pool.tenant(), worker.dp_rank()));
    let named: Vec<String> = named.collect();
    Ok(Json(json!({ "status": "unregistered successfully", "removed_instances": named })).into_response())
}

/// Which workers are to be shown; what is not said is all.
#[derive(Deserialize)]
struct Shown {
    model_name: Option<String>,
    #[serde(alias = "routing_group")]
    tenant_id: Option<String>,
}

async fn workers(State(routing): State<Routing>, Parameters(shown): Parameters<Shown>) -> Response {
    let mut workers = routing.workers().await;
    workers.retain(|view| {
        shown.model_name.as_deref().is_none_or(|model| model == model_and_salt(&view.pool).0)
            && shown.tenant_id.as_deref().is_none_or(|tenant| tenant == view.pool.tenant())
    });
    Json(answers::workers(&workers)).into_response()
}

async fn query(State(routing): State<Routing>, body: Bytes) -> Result<Response, Failure> {
    understand(routing, body, Ask::by_tokens).await
}

async fn query_by_hash(State(routing): State<Routing>, body: Bytes) -> Result<Response, Failure> {
    understand(routing, body, Ask::by_hash).await
}

/// Reads and answers a question; a long one where it holds up nobody else.
async fn understand(
    routing: Routing,
    body: Bytes,
    understand: fn(Ask) -> Result<Question, RequestError>,
) -> Result<Response, Failure> {
    let is_long = body.len() > ROUTER_SHORT_REQUEST_BYTES;
    let work = move || answer(&routing, &understand(read(&body)?)?);
    if !is_long {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|broken| std::panic::resume_unwind(broken.into_panic()))
}

fn answer(routing: &Routing, question: &Question) -> Result<Response, Failure> {
    let pool = routing.0.catalog.select(&question.pool())?;
    let asked = match &question.chain {
        Chain::Tokens(tokens) => Query::Tokens { tokens, salt: question.salt.as_deref() },
        Chain::Sequence(hashes) => Query::SequenceHashes(hashes),
        Chain::Local(hashes) => Query::LocalHashes(hashes),
    };
    let mut found = Answer::new();
    pool.query(asked, &mut found)?;
    Ok(Json(answers::matches(question, &found)).into_response())
}
