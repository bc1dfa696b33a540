//! The OpenAPI 3.1 document of the API, generated from the handlers and their response types.

use super::failure::{Reasoned, Refused};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

const TOKEN: &str = "token";

/// Everything but the paths.
pub fn frame() -> OpenApi {
    let info = InfoBuilder::new()
        .title("holdline")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The admin API. Times are RFC 3339. Lists page by `after` and `limit`. A change is answered when it is durable.",
        ))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// Adds what applies to all paths: error responses and token authentication.
pub fn complete(document: &mut OpenApi) {
    document.info = frame().info;
    let components = document.components.get_or_insert_default();
    components.schemas.insert("Refused".to_owned(), Refused::schema());
    components.schemas.insert(Reasoned::name().into_owned(), Reasoned::schema());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.security_schemes.insert(TOKEN.to_owned(), RefOr::T(SecurityScheme::Http(bearer)));
    document.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
}
