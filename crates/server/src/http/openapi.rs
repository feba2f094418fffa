//! The routes and their description, from one registration.

use std::sync::Arc;

use boxyard_proto::api::error::ErrorBody;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http as HttpAuth, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    Http, account_env, archives, boxes, code, contexts, exec, files, git, health, labels, logs, output, pause, runs,
    session, snapshots, ssh, startup, usage,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Boxyard", description = "Isolated Linux boxes over HTTP. Speaks the wire protocol of Upstash Box."),
    modifiers(&Keys),
    components(schemas(ErrorBody)),
    security(("api_key" = []), ("bearer" = []))
)]
struct Document;

struct Keys;

impl utoipa::Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-Box-Api-Key")));
        components.add_security_scheme("api_key", key);
        components.add_security_scheme("bearer", SecurityScheme::Http(HttpAuth::new(HttpAuthScheme::Bearer)));
    }
}

/// All routes of the API, each with its description.
pub(super) fn routes() -> OpenApiRouter<Arc<Http>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(boxes::create, boxes::list, boxes::delete_several))
        .routes(routes!(boxes::show, boxes::delete))
        .routes(routes!(boxes::status))
        .routes(routes!(snapshots::list, snapshots::delete_several))
        .routes(routes!(snapshots::create, snapshots::list_of_box))
        .routes(routes!(snapshots::delete))
        .routes(routes!(snapshots::restore))
        .routes(routes!(snapshots::fork))
        .routes(routes!(archives::export))
        .routes(routes!(archives::import))
        .routes(routes!(pause::pause))
        .routes(routes!(pause::resume))
        .routes(routes!(startup::show, startup::set, startup::remove))
        .routes(routes!(labels::add))
        .routes(routes!(labels::remove))
        .routes(routes!(exec::exec))
        .routes(routes!(exec::exec_stream))
        .routes(routes!(code::code))
        .routes(routes!(code::code_stream))
        .routes(routes!(session::exec_session))
        .routes(routes!(contexts::create, contexts::list))
        .routes(routes!(contexts::show, contexts::delete))
        .routes(routes!(contexts::restart))
        .routes(routes!(contexts::interrupt))
        .routes(routes!(contexts::code))
        .routes(routes!(contexts::code_stream))
        .routes(routes!(files::read::read))
        .routes(routes!(files::write::write))
        .routes(routes!(files::list::list))
        .routes(routes!(files::change::stat))
        .routes(routes!(files::change::mkdir))
        .routes(routes!(files::change::rename))
        .routes(routes!(files::change::remove))
        .routes(routes!(files::change::chmod))
        .routes(routes!(files::upload::upload, files::write::put))
        .routes(routes!(files::write::unpack))
        .routes(routes!(files::download::download))
        .routes(routes!(files::search::search))
        .routes(routes!(files::watch::watch))
        .routes(routes!(git::clone::clone))
        .routes(routes!(git::look::status))
        .routes(routes!(git::look::diff))
        .routes(routes!(git::change::commit))
        .routes(routes!(git::change::push))
        .routes(routes!(git::change::checkout))
        .routes(routes!(git::exec::exec))
        .routes(routes!(git::propose::create_pr))
        .routes(routes!(git::propose::create_issue))
        .routes(routes!(git::config::config))
        .routes(routes!(git::config::git_config))
        .routes(routes!(runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(runs::cancel))
        .routes(routes!(output::show))
        .routes(routes!(logs::list))
        .routes(routes!(ssh::door))
        .routes(routes!(ssh::add_key, ssh::list_keys))
        .routes(routes!(ssh::remove_key))
        .routes(routes!(ssh::create_token, ssh::list_tokens))
        .routes(routes!(ssh::revoke_token))
        .routes(routes!(usage::show))
        .routes(routes!(account_env::list, account_env::replace))
        .routes(routes!(account_env::set, account_env::unset))
        .routes(routes!(health::healthz))
        .routes(routes!(health::openapi))
}

/// The OpenAPI document as pretty JSON with a final newline: the content of `openapi.json` at the root of the repository.
pub fn openapi() -> String {
    let document = routes().into_openapi();
    // The document is made of texts, lists and maps with text keys.
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
