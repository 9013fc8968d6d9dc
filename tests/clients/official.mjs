// The official JavaScript client, as its users write programs with it: typed, any object, informers.

import assert from 'node:assert/strict';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromDefault();
const namespace = 'clients';
const core = config.makeApiClient(k8s.CoreV1Api);

async function typed() {
  const body = { metadata: { name: 'js' }, data: { a: 'b' } };
  await core.createNamespacedConfigMap({ namespace, body });
  await core.patchNamespacedConfigMap(
    { name: 'js', namespace, body: [{ op: 'add', path: '/data/c', value: 'd' }] },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch),
  );
  const read = await core.readNamespacedConfigMap({ name: 'js', namespace });
  assert.deepEqual(read.data, { a: 'b', c: 'd' });
  assert.ok(read.metadata.creationTimestamp instanceof Date);
  read.data = { e: 'f' };
  await core.replaceNamespacedConfigMap({ name: 'js', namespace, body: read });
  await assert.rejects(
    core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'Not_A_Name' } } }),
    (error) => error.code === 422 && error.body.includes('metadata.name'),
  );
  await core.deleteNamespacedConfigMap({ name: 'js', namespace });
  console.log('typed: created, patched, replaced; a bad one refused');
}

async function objects() {
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const spec = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'any', namespace }, data: { a: 'b' } };
  await objects.patch(spec, undefined, undefined, 'program', true, k8s.PatchStrategy.ServerSideApply);
  const read = await objects.read(spec);
  assert.equal(read.data.a, 'b');
  assert.equal(read.metadata.managedFields[0].operation, 'Apply');
  await objects.delete(spec);
  await assert.rejects(objects.read(spec), (error) => error.code === 404);
  console.log('objects: applied on the server, read back, gone');
}

async function informer() {
  const seen = [];
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'informer=js' });
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const informer = k8s.makeInformer(config, path, list, 'informer=js');
  const until = (text) => new Promise((resolve) => {
    const verb = text.split(' ')[0];
    informer.on(verb, (object) => {
      seen.push(`${verb} ${object.metadata.name}`);
      if (seen.at(-1) === text) resolve();
    });
  });
  const [added, updated, deleted] = ['add first', 'update first', 'delete first'].map(until);
  await informer.start();
  const body = { metadata: { name: 'first', labels: { informer: 'js' } } };
  await core.createNamespacedConfigMap({ namespace, body });
  await added;
  await core.replaceNamespacedConfigMap({ name: 'first', namespace, body: { ...body, data: { x: 'y' } } });
  await updated;
  await core.deleteNamespacedConfigMap({ name: 'first', namespace });
  await deleted;
  await informer.stop();
  console.log(`informer: ${seen.join(', ')}`);
}

await typed();
await objects();
await informer();
process.exit(0);
