//! Namespaces that limit what may be in them: `strict` under PodSecurity restricted, `full` and `busy` at their quotas.
//!
//! Whoever may not ask is told so first; to everybody else these namespaces are the same.

use super::world::Row;

/// A pod that restricted lets in.
macro_rules! good {
    ($name:literal) => {
        concat!(
            "{\"metadata\":{\"name\":\"",
            $name,
            "\"},\"spec\":{\"securityContext\":{\"runAsNonRoot\":true,\"seccompProfile\":{\"type\":\"RuntimeDefault\"}},\
             \"serviceAccountName\":\"robot\",\"containers\":[{\"name\":\"c\",\"image\":\"i\",\"securityContext\":{\
             \"allowPrivilegeEscalation\":false,\"capabilities\":{\"drop\":[\"ALL\"]}}}]}}"
        )
    };
}

/// A pod that says nothing, or what is given.
macro_rules! plain {
    ($spec:literal) => {
        concat!(
            "{\"metadata\":{\"name\":\"x\"},\"spec\":{\"serviceAccountName\":\"robot\",",
            $spec,
            "\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}"
        )
    };
}

macro_rules! post {
    ($namespace:literal, $body:expr) => {
        concat!("POST /api/v1/namespaces/", $namespace, "/pods?dryRun=All ", $body)
    };
}

/// What restricted has against a pod that says nothing.
const VIOLATES: &str = "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": \
    allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
    unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
    runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
    seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
    \"Localhost\")";

const NO_PODS: &str = "cannot create resource \"pods\" in API group \"\" in the namespace \"strict\"";

const POD: &str = post!("strict", plain!(""));

pub(crate) const STRICT: &[Row] = &[
    ("root", POD, 403, VIOLATES),
    ("sam", POD, 403, VIOLATES),
    ("robot", POD, 403, VIOLATES),
    ("bob", POD, 403, NO_PODS),
    ("alice", POD, 403, NO_PODS),
    ("anonymous", POD, 403, NO_PODS),
    ("jane-alice", POD, 403, "User \"jane\" cannot impersonate-on:user-info:create resource \"pods\""),
    ("root-alice", POD, 403, NO_PODS),
    ("n1", POD, 403, "pod does not have \"kubernetes.io/config.mirror\" annotation"),
    ("root", post!("strict", good!("x")), 201, "\"x\""),
    ("sam", post!("strict", good!("x")), 201, "\"x\""),
    ("robot", post!("strict", good!("x")), 201, "\"x\""),
    ("bob", post!("strict", good!("x")), 403, NO_PODS),
    ("sam", post!("strict", plain!("\"hostNetwork\":true,")), 403, "host namespaces (hostNetwork=true), "),
    (
        "sam",
        post!("strict", plain!("\"hostPID\":true,\"hostIPC\":true,")),
        403,
        "host namespaces (hostPID=true, hostIPC=true), ",
    ),
    (
        "sam",
        post!("strict", plain!("\"volumes\":[{\"name\":\"h\",\"hostPath\":{\"path\":\"/\"}}],")),
        403,
        "restricted volume types (volume \"h\" uses restricted volume type \"hostPath\"), ",
    ),
    (
        "sam",
        post!("strict", plain!("\"securityContext\":{\"runAsUser\":0},")),
        403,
        "runAsUser=0 (pod must not set runAsUser=0), ",
    ),
    // Templates are judged when pods are made of them.
    (
        "sam",
        "POST /apis/apps/v1/namespaces/strict/deployments?dryRun=All {\"metadata\":{\"name\":\"d\"},\"spec\":{\"selector\":{\
         \"matchLabels\":{\"a\":\"b\"}},\"template\":{\"metadata\":{\"labels\":{\"a\":\"b\"}},\"spec\":{\"containers\":[{\
         \"name\":\"c\",\"image\":\"i\"}]}}}}",
        201,
        "",
    ),
    // What is there already may be labelled, and timed, whatever it is; what is added to it is held to the rules.
    (
        "sam",
        "PATCH /api/v1/namespaces/strict/pods/bad?dryRun=All {\"metadata\":{\"labels\":{\"a\":\"b\"}}}",
        200,
        "",
    ),
    (
        "sam",
        "PATCH /api/v1/namespaces/strict/pods/bad?dryRun=All {\"spec\":{\"activeDeadlineSeconds\":5}}",
        200,
        "",
    ),
    (
        "root",
        "PATCH /api/v1/namespaces/strict/pods/fine/ephemeralcontainers?dryRun=All {\"spec\":{\"ephemeralContainers\":[{\
         \"name\":\"e\",\"image\":\"i\"}]}}",
        403,
        "pods \"fine\" is forbidden: violates PodSecurity \"restricted:latest\": ",
    ),
    ("sam", "DELETE /api/v1/namespaces/strict/pods/bad?dryRun=All", 200, ""),
    ("bob", "GET /api/v1/namespaces/strict/pods/bad", 200, ""),
    // Nobody but those who own the namespace may loosen it.
    (
        "sam",
        "PATCH /api/v1/namespaces/strict?dryRun=All {\"metadata\":{\"labels\":{\"pod-security.kubernetes.io/enforce\":null}}}",
        403,
        "namespaces \"strict\" is forbidden: User \"sam\" cannot patch resource \"namespaces\"",
    ),
    (
        "root",
        "PATCH /api/v1/namespaces/strict?dryRun=All {\"metadata\":{\"labels\":{\"pod-security.kubernetes.io/enforce\":null}}}",
        200,
        "",
    ),
    (
        "root",
        "PATCH /api/v1/namespaces/strict?dryRun=All {\"metadata\":{\"labels\":{\"pod-security.kubernetes.io/enforce\":\"x\"}}}",
        422,
        "must be one of privileged, baseline, restricted",
    ),
    // The rules of one namespace are none of another's.
    ("root", post!("dev", plain!("")), 201, ""),
];

const NO_ROOM: &str =
    "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1";

const NO_ROOM_FOR_MAPS: &str = "configmaps \"x\" is forbidden: exceeded quota: q, requested: count/configmaps=1, \
    used: count/configmaps=1, limited: count/configmaps=1";

const MAP: &str = "POST /api/v1/namespaces/full/configmaps?dryRun=All {\"metadata\":{\"name\":\"x\"}}";

pub(crate) const FULL: &[Row] = &[
    ("root", post!("full", plain!("")), 403, NO_ROOM),
    ("sam", post!("full", plain!("")), 403, NO_ROOM),
    ("robot", post!("full", plain!("")), 403, NO_ROOM),
    (
        "bob",
        post!("full", plain!("")),
        403,
        "cannot create resource \"pods\" in API group \"\" in the namespace \"full\"",
    ),
    (
        "anonymous",
        post!("full", plain!("")),
        403,
        "User \"system:anonymous\" cannot create resource \"pods\"",
    ),
    ("n1", post!("full", plain!("")), 403, "pod does not have \"kubernetes.io/config.mirror\" annotation"),
    ("root", MAP, 403, NO_ROOM_FOR_MAPS),
    ("sam", MAP, 403, NO_ROOM_FOR_MAPS),
    ("robot", MAP, 403, NO_ROOM_FOR_MAPS),
    ("bob", MAP, 403, "configmaps is forbidden: User \"bob\" cannot create resource \"configmaps\""),
    // To apply what is not there is to create it.
    (
        "sam",
        "PATCH /api/v1/namespaces/full/configmaps/x?dryRun=All&fieldManager=sam {\"apiVersion\":\"v1\",\"kind\":\
         \"ConfigMap\",\"metadata\":{\"name\":\"x\"}}",
        403,
        NO_ROOM_FOR_MAPS,
    ),
    (
        "patcher",
        "PATCH /api/v1/namespaces/full/configmaps/x?dryRun=All&fieldManager=p {\"apiVersion\":\"v1\",\"kind\":\
         \"ConfigMap\",\"metadata\":{\"name\":\"x\"}}",
        403,
        "configmaps \"x\" is forbidden: User \"patcher\" cannot create resource \"configmaps\" in API group \"\" in the \
         namespace \"full\"",
    ),
    (
        "patcher",
        "PATCH /api/v1/namespaces/full/configmaps/one?dryRun=All&fieldManager=p {\"apiVersion\":\"v1\",\"kind\":\
         \"ConfigMap\",\"metadata\":{\"name\":\"one\"},\"data\":{\"a\":\"b\"}}",
        200,
        "",
    ),
    // What is not limited has room, and so has what is there.
    ("sam", "POST /api/v1/namespaces/full/secrets?dryRun=All {\"metadata\":{\"name\":\"x\"}}", 201, ""),
    ("sam", "PATCH /api/v1/namespaces/full/configmaps/one?dryRun=All {\"data\":{\"a\":\"b\"}}", 200, ""),
    ("sam", "DELETE /api/v1/namespaces/full/configmaps/one?dryRun=All", 200, ""),
    ("sam", "GET /api/v1/namespaces/full/resourcequotas/q", 200, "\"count/configmaps\":\"1\""),
    ("bob", "GET /api/v1/namespaces/full/resourcequotas", 200, ""),
    (
        "sam",
        "PATCH /api/v1/namespaces/full/resourcequotas/q?dryRun=All {\"spec\":{\"hard\":{\"pods\":\"9\"}}}",
        403,
        "resourcequotas \"q\" is forbidden: User \"sam\" cannot patch resource \"resourcequotas\"",
    ),
    (
        "sam",
        "DELETE /api/v1/namespaces/full/resourcequotas/q?dryRun=All",
        403,
        "resourcequotas \"q\" is forbidden: User \"sam\" cannot delete resource \"resourcequotas\"",
    ),
    (
        "root",
        "PATCH /api/v1/namespaces/full/resourcequotas/q?dryRun=All {\"spec\":{\"hard\":{\"pods\":\"9\"}}}",
        200,
        "",
    ),
    // Where processors are counted, every container has to say how much it wants.
    (
        "sam",
        post!("busy", plain!("")),
        403,
        "pods \"x\" is forbidden: failed quota: cpu: must specify requests.cpu for: c",
    ),
    (
        "root",
        "POST /api/v1/namespaces/busy/pods?dryRun=All {\"metadata\":{\"name\":\"x\"},\"spec\":{\"serviceAccountName\":\
         \"robot\",\"containers\":[{\"name\":\"c\",\"image\":\"i\",\"resources\":{\"requests\":{\"cpu\":\"600m\"}}}]}}",
        403,
        "pods \"x\" is forbidden: exceeded quota: cpu, requested: requests.cpu=600m, used: requests.cpu=500m, limited: \
         requests.cpu=1",
    ),
    (
        "sam",
        "POST /api/v1/namespaces/busy/pods?dryRun=All {\"metadata\":{\"name\":\"x\"},\"spec\":{\"serviceAccountName\":\
         \"robot\",\"containers\":[{\"name\":\"c\",\"image\":\"i\",\"resources\":{\"requests\":{\"cpu\":\"500m\"}}}]}}",
        201,
        "",
    ),
];
