//! The chapters of `framework/docs`: what is Rust in them compiles and runs as doc tests of this crate.

macro_rules! chapters {
    ($($name:ident $file:literal)*) => {
        $(
            #[doc = include_str!(concat!("../../framework/docs/", $file))]
            mod $name {}
        )*
    };
}

chapters! {
    first_operator "first-operator.md"
    caching "caching-and-consistency.md"
    triggers "triggers.md"
    testing "testing.md"
    webhooks "webhooks.md"
    versions "versions.md"
    scaling_out "scaling-out.md"
    production "production.md"
    from_kube_rs "from-kube-rs.md"
    from_controller_runtime "from-controller-runtime.md"
}
