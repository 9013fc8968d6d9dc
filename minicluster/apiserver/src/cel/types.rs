//! What expressions of admission see, with types, and what they have to evaluate to.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/cel/compile.go`.

use windlass_crd::{
    cel::{self, Env, Fields, Type},
    schema,
};

/// What an expression has to evaluate to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A truth.
    Bool,
    /// A text.
    Text,
    /// A text or nothing.
    TextOrNull,
    /// Anything.
    Any,
    /// A configuration to be merged in.
    Object,
    /// Operations of a JSON patch.
    Patches,
}

impl Wanted {
    fn accepts(self, ty: &Type) -> bool {
        let named = |ty: &Type, name: &str| matches!(ty, Type::Object(fields) if fields.name == name);
        match (self, ty) {
            (Self::Any, _) | (Self::Bool, Type::Bool) | (Self::Text, Type::String(_)) => true,
            (Self::TextOrNull, Type::String(_) | Type::Null) => true,
            (Self::Object, ty) => named(ty, "Object"),
            (Self::Patches, Type::List(item, _)) => named(item, "JSONPatch"),
            _ => false,
        }
    }

    fn told(self, ty: &Type) -> String {
        match self {
            Self::Bool => format!("must evaluate to bool but got {ty}"),
            Self::Text => format!("must evaluate to string but got {ty}"),
            Self::TextOrNull => format!("must evaluate to one of [string null_type] but got {ty}"),
            Self::Object => format!("must evaluate to Object but got {ty}"),
            Self::Patches => format!("must evaluate to list(JSONPatch) but got {ty}"),
            Self::Any => String::new(),
        }
    }
}

/// The variables of admission's expressions. `objects`: the type of `object` and `oldObject`.
pub(crate) fn environment(objects: Type, params: Option<Type>, authorizer: bool) -> Env {
    let text = || Type::STRING;
    let kind = |last: &str, name: &str| {
        Type::object(name, &[("group", text()), ("version", text()), (last, text())])
    };
    let (gvk, gvr) =
        (kind("kind", "kubernetes.GroupVersionKind"), kind("resource", "kubernetes.GroupVersionResource"));
    let user = Type::object(
        "kubernetes.UserInfo",
        &[
            ("username", text()),
            ("uid", text()),
            ("groups", Type::list(text())),
            ("extra", Type::map(text(), Type::list(text()))),
        ],
    );
    let request = Type::object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", gvk.clone()),
            ("resource", gvr.clone()),
            ("subResource", text()),
            ("requestKind", gvk),
            ("requestResource", gvr),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    );
    let namespace = schema::builtin("v1", "Namespace")
        .map_or(Type::Dyn, |schema| cel::of_schema(&schema, "kubernetes.Namespace", false));
    let mut env = Env::new(&[
        ("object", objects.clone()),
        ("oldObject", objects),
        ("request", request),
        ("namespaceObject", namespace),
    ]);
    if let Some(params) = params {
        env.variables.insert("params".to_owned(), params);
    }
    if authorizer {
        let opaque = |name| Type::Opaque(name);
        env.variables.insert("authorizer".to_owned(), opaque("kubernetes.authorization.Authorizer"));
        let check = opaque("kubernetes.authorization.ResourceCheck");
        env.variables.insert("authorizer.requestResource".to_owned(), check);
    }
    env
}

/// Adds variables that an expression sees as `variables.x`, as far as they are known.
pub(crate) fn with_variables(env: &Env, variables: &Fields) -> Env {
    let mut env = env.clone();
    env.variables.insert("variables".to_owned(), Type::Object(variables.clone().into()));
    env
}

/// The type of an expression, if it is one and of the type that is wanted.
///
/// # Errors
/// Upstream's sentence.
pub(crate) fn type_of(text: &str, env: &Env, wanted: Wanted) -> Result<Type, String> {
    let issues = |issues: Vec<cel::Issue>| format!("compilation failed: {}", cel::shown(text, &issues));
    let ty = cel::parse(text).and_then(|node| cel::check(&node, env)).map_err(issues)?;
    if wanted.accepts(&ty) { Ok(ty) } else { Err(wanted.told(&ty)) }
}
