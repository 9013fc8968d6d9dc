"""An operator written with kopf: a boat gets a config map, a status and a log of its changes, and says goodbye."""

import kopf
from kubernetes import client, config


@kopf.on.startup()
def begin(settings: kopf.OperatorSettings, **_):
    config.load_kube_config()
    settings.persistence.finalizer = "boats.kopf.dev/finalizer"


@kopf.on.create("kopf.dev", "v1", "boats")
def built(name, namespace, spec, **_):
    body = {"metadata": {"name": f"{name}-papers"}, "data": {"size": str(spec["size"])}}
    kopf.adopt(body)
    client.CoreV1Api().create_namespaced_config_map(namespace, body)
    return {"papers": f"{name}-papers"}


@kopf.on.field("kopf.dev", "v1", "boats", field="spec.size")
def resized(old, new, name, namespace, **_):
    if old is not None:
        client.CoreV1Api().patch_namespaced_config_map(f"{name}-papers", namespace, {"data": {"size": str(new)}})


@kopf.on.delete("kopf.dev", "v1", "boats")
def sunk(name, namespace, **_):
    client.CoreV1Api().create_namespaced_config_map(namespace, {"metadata": {"name": f"{name}-sunk"}})
