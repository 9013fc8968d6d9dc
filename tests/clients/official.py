"""The official Python client, as its users write programs with it: typed, dynamic, watches, streams."""

import sys
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes.stream import stream

NAMESPACE = "clients"

config.load_kube_config()
core, apps, batch, extensions = (
    client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api(), client.ApiextensionsV1Api())


def typed():
    name = client.VersionApi().get_code()
    assert name.major == "1", name
    core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name="typed", labels={"app": "typed"}), data={"a": "b"}))
    core.patch_namespaced_config_map("typed", NAMESPACE, {"data": {"c": "d"}})
    read = core.read_namespaced_config_map("typed", NAMESPACE)
    assert read.data == {"a": "b", "c": "d"}, read.data
    read.data = {"e": "f"}
    core.replace_namespaced_config_map("typed", NAMESPACE, read)
    try:
        core.replace_namespaced_config_map("typed", NAMESPACE, read)
        raise AssertionError("a stale object was taken")
    except ApiException as error:
        assert (error.status, error.reason) == (409, "Conflict"), error
    try:
        core.create_namespaced_service(NAMESPACE, client.V1Service(
            metadata=client.V1ObjectMeta(name="bad"), spec=client.V1ServiceSpec(ports=[client.V1ServicePort(port=0)])))
        raise AssertionError("a port of 0 was taken")
    except ApiException as error:
        assert error.status == 422 and "spec.ports[0].port" in error.body, error
    print("typed: created, patched, replaced; a stale write and a bad one refused")


def pages():
    for i in range(7):
        core.create_namespaced_secret(NAMESPACE, client.V1Secret(
            metadata=client.V1ObjectMeta(name=f"page-{i}", labels={"page": "yes"}), string_data={"n": str(i)}))
    found, token = [], None
    while True:
        page = core.list_namespaced_secret(NAMESPACE, label_selector="page", limit=3, _continue=token)
        found += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert found == [f"page-{i}" for i in range(7)], found
    core.delete_collection_namespaced_secret(NAMESPACE, label_selector="page")
    assert not core.list_namespaced_secret(NAMESPACE, label_selector="page").items
    print("pages: seven secrets in pages of three, and gone as a collection")


def deployment():
    labels = {"app": "web"}
    pod = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(termination_grace_period_seconds=0, containers=[client.V1Container(
            name="web", image="windlass.dev/demo:1", command=["sh", "-c", "echo hello; sleep 1000"])]))
    apps.create_namespaced_deployment(NAMESPACE, client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=pod)))
    for event in watch.Watch().stream(apps.list_namespaced_deployment, NAMESPACE, timeout_seconds=60):
        if event["object"].status.available_replicas == 1:
            break
    scale = apps.read_namespaced_deployment_scale("web", NAMESPACE)
    scale.spec.replicas = 2
    apps.replace_namespaced_deployment_scale("web", NAMESPACE, scale)
    for event in watch.Watch().stream(apps.list_namespaced_deployment, NAMESPACE, timeout_seconds=60):
        if event["object"].status.available_replicas == 2:
            break
    print("deployment: available, scaled to two; both seen by a watch")


def streams():
    pod = core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items[0].metadata.name
    said = stream(core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=["sh", "-c", "echo out; echo err >&2"],
                  stderr=True, stdin=False, stdout=True, tty=False)
    assert sorted(said.split()) == ["err", "out"], said
    shell = stream(core.connect_get_namespaced_pod_exec, pod, NAMESPACE, command=["sh"], stderr=True, stdin=True,
                   stdout=True, tty=False, _preload_content=False)
    shell.write_stdin("echo from stdin\nexit 3\n")
    shell.run_forever(timeout=20)
    assert shell.read_stdout() == "from stdin\n" and shell.returncode == 3, shell.returncode
    assert core.read_namespaced_pod_log(pod, NAMESPACE) == "hello\n"
    followed = watch.Watch().stream(core.read_namespaced_pod_log, name=pod, namespace=NAMESPACE)
    assert next(iter(followed)) == "hello"
    print("streams: exec with output and errors, stdin and an exit code; logs read and followed")


def definition():
    schema = {"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}}}}
    extensions.create_custom_resource_definition({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.clients.dev"},
        "spec": {"group": "clients.dev", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
                 "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                               "schema": {"openAPIV3Schema": schema}}]}})
    for _ in range(100):
        crd = extensions.read_custom_resource_definition("boats.clients.dev")
        if any(c.type == "Established" and c.status == "True" for c in crd.status.conditions or []):
            break
        time.sleep(0.05)


def dynamically():
    found = dynamic.DynamicClient(client.ApiClient())
    boats = found.resources.get(api_version="clients.dev/v1", kind="Boat")
    body = {"apiVersion": "clients.dev/v1", "kind": "Boat", "metadata": {"name": "a"}, "spec": {"size": 3}}
    boats.create(body=body, namespace=NAMESPACE)
    assert boats.get(name="a", namespace=NAMESPACE).spec.color == "red"
    mine = {**body, "spec": {"size": 4}}
    try:
        boats.server_side_apply(body=mine, namespace=NAMESPACE, field_manager="program")
        raise AssertionError("a field of somebody else was taken")
    except ConflictError as error:
        assert "conflict" in str(error), error
    boats.server_side_apply(body=mine, namespace=NAMESPACE, field_manager="program", force_conflicts=True)
    boats.status.patch(body={"status": {"sails": 2}}, name="a", namespace=NAMESPACE,
                       content_type="application/merge-patch+json")
    seen = []
    for event in boats.watch(namespace=NAMESPACE, timeout=2):
        seen.append(event["type"])
        if event["type"] == "ADDED":
            boats.delete(name="a", namespace=NAMESPACE)
        if event["type"] == "DELETED":
            break
    assert seen == ["ADDED", "DELETED"], seen
    try:
        boats.get(name="a", namespace=NAMESPACE)
        raise AssertionError("it is still there")
    except NotFoundError:
        pass
    pods = found.resources.get(api_version="v1", kind="Pod")
    assert len(pods.get(namespace=NAMESPACE, label_selector="app=web").items) == 2
    extensions.delete_custom_resource_definition("boats.clients.dev")
    print("dynamic: discovered, created, applied with and without force, watched to its end")


def access():
    review = client.AuthorizationV1Api().create_self_subject_access_review(client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(
            verb="create", resource="pods", namespace=NAMESPACE))))
    assert review.status.allowed
    token = core.create_namespaced_service_account_token("default", NAMESPACE, client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))).status.token
    other = client.Configuration.get_default_copy()
    other.cert_file = other.key_file = None
    other.api_key, other.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
    me = client.AuthenticationV1Api(client.ApiClient(other)).create_self_subject_review(
        client.V1SelfSubjectReview())
    assert me.status.user_info.username == f"system:serviceaccount:{NAMESPACE}:default", me
    try:
        client.CoreV1Api(client.ApiClient(other)).list_node()
        raise AssertionError("a service account saw the nodes")
    except ApiException as error:
        assert error.status == 403, error
    print("access: reviewed, a token asked for and used, and held to what it may do")


for part in (typed, pages, deployment, streams, definition, dynamically, access):
    part()
apps.delete_namespaced_deployment("web", NAMESPACE)
sys.exit(0)
