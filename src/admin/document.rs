//! The document of the API (OpenAPI 3.1), made from the handlers and the structs that they answer with.

use super::failure::{Reasoned, Refused};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

const TOKEN: &str = "token";

/// What stands around the paths.
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

/// Adds what no single path says: errors, the token, and that a token is wanted.
pub fn complete(document: &mut OpenApi) {
    document.info = frame().info;
    let components = document.components.get_or_insert_default();
    components.schemas.insert("Refused".to_owned(), Refused::schema());
    components.schemas.insert(Reasoned::name().into_owned(), Reasoned::schema());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.security_schemes.insert(TOKEN.to_owned(), RefOr::T(SecurityScheme::Http(bearer)));
    document.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
}
