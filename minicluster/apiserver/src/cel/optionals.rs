//! Macros on values that may be missing, put into loops over what is there: `o.optMap(v, …)`, `o.optFlatMap(v, …)`.
//! Source: `github.com/google/cel-go/cel/library.go`.

use kube_cel::cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, Expr, ListExpr, LiteralValue, operators},
};

/// The engine's name of what a loop gathers.
const GATHERED: &str = "@result";

/// Whether a call is such a macro; its first argument is a variable then.
pub(super) fn is_macro(call: &CallExpr) -> bool {
    matches!(call.func_name.as_str(), "optMap" | "optFlatMap")
        && call.target.is_some()
        && matches!(call.args.as_slice(), [IdedExpr { expr: Expr::Ident(_), .. }, _])
}

/// The loop that a call of such a macro is: none or one turn. What is no such call comes back as it was.
pub(super) fn expanded(id: u64, mut call: CallExpr) -> Expr {
    if !is_macro(&call) {
        return Expr::Call(call);
    }
    let flat = call.func_name == "optFlatMap";
    let (Some(target), Some(body), Some(variable)) = (call.target.take(), call.args.pop(), call.args.pop())
    else {
        return Expr::Call(call);
    };
    let Expr::Ident(variable) = variable.expr else { return variable.expr };
    let part = |expr| IdedExpr { id, expr };
    let call =
        |name: &str, args| part(Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }));
    let list = |items| part(Expr::List(ListExpr::new(items)));
    let gathered = || part(Expr::Ident(GATHERED.to_owned()));
    // Of what may be missing, the list of what is there.
    let there = |of: IdedExpr| {
        let asked = |method: &str| {
            let (func_name, target) = (method.to_owned(), Some(Box::new(of.clone())));
            part(Expr::Call(CallExpr { func_name, target, args: Vec::new() }))
        };
        call(operators::CONDITIONAL, vec![asked("hasValue"), list(vec![asked("value")]), list(Vec::new())])
    };
    let made = if flat { there(body) } else { list(vec![body]) };
    let first = part(Expr::Literal(LiteralValue::Int(0.into())));
    Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: there(*target),
        iter_var: variable,
        iter_var2: None,
        accu_var: GATHERED.to_owned(),
        accu_init: list(Vec::new()),
        loop_cond: part(Expr::Literal(LiteralValue::Boolean(true.into()))),
        loop_step: call(operators::ADD, vec![gathered(), made]),
        result: call(operators::OPT_INDEX, vec![gathered(), first]),
    }))
}
