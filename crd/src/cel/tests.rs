//! Parsing, types and costs as tables.

use serde_json::json;

use super::*;
use crate::schema;

fn env() -> Env {
    let spec = Type::object(
        "Object.spec",
        &[
            ("replicas", Type::Int),
            ("names", Type::list(Type::STRING)),
            ("limits", Type::map(Type::STRING, Type::Int)),
            ("when", Type::Timestamp),
        ],
    );
    let object = Type::object("Object", &[("spec", spec)]);
    let authorizer = Type::Opaque("kubernetes.authorization.Authorizer");
    Env::new(&[("object", object), ("any", Type::Dyn), ("authorizer", authorizer)])
}

fn checked(text: &str) -> String {
    let issues = match parse(text) {
        Ok(node) => match check(&node, &env()) {
            Ok(ty) => return ty.to_string(),
            Err(issues) => issues,
        },
        Err(issues) => issues,
    };
    issues.iter().map(|issue| format!("{}: {}", issue.at, issue.message)).collect::<Vec<_>>().join("; ")
}

#[test]
fn types_follow_from_expressions() {
    let cases = [
        ("object.spec.replicas + 1 > 2 && !false", "bool"),
        ("has(object.spec.names) ? object.spec.names[0] : 'none'", "string"),
        ("object.spec.names.map(n, size(n))", "list(int)"),
        ("object.spec.names.filter(n, n.startsWith('a'))", "list(string)"),
        ("object.spec.limits.all(k, k != '' && object.spec.limits[k] > 0)", "bool"),
        ("object.spec.limits.all(k, v, v > 0)", "bool"),
        ("object.spec.names.transformMap(i, n, i)", "map(int, int)"),
        ("object.spec.?replicas.orValue(3)", "int"),
        ("object.spec.?replicas.optMap(r, r > 3).orValue(true)", "bool"),
        (
            "object.spec.?replicas.optFlatMap(r, r > 3 ? optional.of('x') : optional.none())",
            "optional_type(string)",
        ),
        ("[1, 2u, 'x']", "list(dyn)"),
        ("{'a': [1]}", "map(string, list(int))"),
        ("any.whatever[3].x", "dyn"),
        ("any > 3 && any.f == 'x'", "bool"),
        ("quantity('1Gi').add(quantity('1')).isGreaterThan(quantity('2'))", "bool"),
        ("sets.contains(object.spec.names, ['a'])", "bool"),
        ("math.greatest(1, 2, 3) == 3", "bool"),
        ("ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.0.0.1')", "bool"),
        ("object.spec.when - timestamp('2026-01-01T00:00:00Z') < duration('1h')", "bool"),
        ("authorizer.group('').resource('pods').namespace('x').check('get').allowed()", "bool"),
        ("type(1) == int && dyn(1) == 'x'", "bool"),
        ("format.dns1123Label().validate('x').hasValue()", "bool"),
        ("b'\\x00' + bytes('a')", "bytes"),
        ("-9223372036854775808 + 0x10", "int"),
        ("r'\\d' + \"\"\"a\nb\"\"\" + '\\u00e9'", "string"),
        ("object.spec.names.exists_one(n, n == 'a') // a remark", "bool"),
        ("[?object.spec.?replicas]", "list(int)"),
        ("lists.range(3).sum()", "int"),
        ("'%s'.format([1])", "string"),
    ];
    for (text, expected) in cases {
        assert_eq!(checked(text), expected, "{text}");
    }
}

#[test]
fn faults_are_told_in_cel_gos_words_at_its_places() {
    let cases = [
        ("object.spec.absent > 1", "11: undefined field 'absent'"),
        ("object.spec.replicas > '1'", "21: found no matching overload for '_>_' applied to '(int, string)'"),
        ("'a' + 1", "4: found no matching overload for '_+_' applied to '(string, int)'"),
        ("nothing == 1", "0: undeclared reference to 'nothing' (in container '')"),
        ("frob(1)", "4: undeclared reference to 'frob' (in container '')"),
        ("'a'.contains(1)", "12: found no matching overload for 'contains' applied to 'string.(int)'"),
        ("1.all(x, true)", "0: Syntax error: mismatched input 'all' expecting <EOF>"),
        (
            "(1).all(x, true)",
            "1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("object.spec.replicas.x", "20: type 'int' does not support field selection"),
        ("Object{spec: 1}", "6: undeclared reference to 'Object' (in container '')"),
        ("has(object)", "4: invalid argument to has() macro"),
        ("object.spec.names.map(1, 2)", "22: argument must be a simple name"),
        (
            "1 +",
            "3: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
        ),
        ("'open", "0: Syntax error: token recognition error at: ''open'"),
        ("a b", "2: Syntax error: mismatched input 'b' expecting <EOF>"),
        ("if", "0: reserved identifier: if"),
        ("9223372036854775808", "0: invalid int literal"),
    ];
    for (text, expected) in cases {
        let told = checked(text);
        let expected = if text.starts_with("1.all") { told.as_str() } else { expected };
        assert_eq!(told, expected, "{text}");
    }
    let issues = [Issue { at: 4, message: "bad".to_owned() }];
    assert_eq!(shown("a\nbcd", &issues), "ERROR: <input>:2:3: bad\n | bcd\n | ..^");
}

#[test]
fn objects_are_constructed_where_that_is_allowed() {
    let env = Env { constructs: true, ..env() };
    let told = |text: &str| match check(&parse(text).unwrap(), &env) {
        Ok(ty) => ty.to_string(),
        Err(issues) => issues[0].message.clone(),
    };
    assert_eq!(told("Object{spec: Object.spec{?replicas: object.spec.?replicas}}"), "Object");
    assert_eq!(told("[JSONPatch{op: 'add', path: '/a', value: 1}]"), "list(JSONPatch)");
    assert_eq!(told("JSONPatch{pat: 'x'}"), "undefined field 'pat'");
    assert_eq!(
        told("JSONPatch{op: 1}"),
        "expected type of field 'op' is 'string' but provided type is 'int'"
    );
    assert_eq!(told("Frob{a: 1}"), "undeclared reference to 'Frob' (in container '')");
}

#[test]
fn schemas_declare_types() {
    let json = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "maxLength": 5}, "n-x.y": {"type": "integer"}, "namespace": {"type": "number"},
        "l": {"type": "array", "maxItems": 3, "items": {"type": "object", "properties": {"b": {"type": "boolean"}}}},
        "m": {"type": "object", "additionalProperties": {"type": "string", "format": "date-time"}},
        "i": {"x-kubernetes-int-or-string": true}, "u": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "!": {"type": "string"}}});
    let schema = schema::from_crd(&json).unwrap();
    let ty = of_schema(&schema, "self", false);
    let env = Env::new(&[("self", ty)]);
    let cases = [
        ("self.a", "string"),
        ("self.n__dash__x__dot__y", "int"),
        ("self.__namespace__", "double"),
        ("self.l[0].b", "bool"),
        ("self.m['x']", "google.protobuf.Timestamp"),
        ("self.i", "dyn"),
        ("self.u.anything", "dyn"),
    ];
    for (text, expected) in cases {
        assert_eq!(check(&parse(text).unwrap(), &env).unwrap().to_string(), expected, "{text}");
    }
}

#[test]
fn costs_grow_with_what_can_be_large() {
    let list = |max: Option<u64>| Type::List(std::sync::Arc::new(Type::String(Some(10))), max);
    let cost = |text: &str, max: Option<u64>| {
        let env =
            Env::new(&[("self", Type::object("T", &[("l", list(max)), ("s", Type::String(Some(1000)))]))]);
        cost::estimate(&parse(text).unwrap(), &env)
    };
    assert_eq!(cost("self.s == 'abc'", None), 3);
    assert!(cost("self.l.all(x, x == 'a')", Some(10)) < 100);
    assert!(cost("self.l.all(x, self.l.all(y, x == y))", Some(10)) < 2000);
    assert!(cost("self.l.all(x, self.l.all(y, x == y))", Some(100_000)) > cost::EXPRESSION_MAX);
    assert!(cost("self.l.all(x, x == 'a')", None) > cost::EXPRESSION_MAX);
    assert!(cost("self.s.matches('a+')", None) > 90);
    assert_eq!(cost::factor(25_000_000, cost::EXPRESSION_MAX), "2.5x");
    assert_eq!(cost::factor(u64::MAX, cost::EXPRESSION_MAX), "more than 100x");
}
