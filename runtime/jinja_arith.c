/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_arith.c - + - * / // % ** on numbers, texts and lists.
 *
 * Integers have 64 bits: where Python would go on with a longer one, the render ends with an
 * error. Division and remainder round downwards. */
#include "jinja_ast.h"
#include "jinja_call.h"

#include <math.h>
#include <string.h>

static const char *const signs[] = {
    [TN_JOP_ADD] = "+", [TN_JOP_SUB] = "-", [TN_JOP_MUL] = "*", [TN_JOP_DIV] = "/",
    [TN_JOP_FLOORDIV] = "//", [TN_JOP_MOD] = "%", [TN_JOP_POW] = "**",
};

static bool overflow(tn_jrun *r)
{
    return tn_jrun_fail(r, "integer overflow; expected a value of 64 bits");
}

static bool unsupported(tn_jrun *r, int op, tn_jval a, tn_jval b)
{
    if (a.type == TN_J_UNDEF || b.type == TN_J_UNDEF)
        return tn_jundef_fail(r, a.type == TN_J_UNDEF ? a : b);
    return tn_jrun_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op],
                        tn_jval_kind(a), tn_jval_kind(b));
}

/* -------------------------------------------------------------------------------- integers */

static bool int_pow(tn_jrun *r, int64_t base, int64_t exp, tn_jval *out)
{
    if (exp < 0) {
        if (base == 0)
            return tn_jrun_fail(r, "0.0 cannot be raised to a negative power");
        *out = tn_jfloat(pow((double)base, (double)exp));
        return true;
    }
    int64_t v = 1;
    while (exp > 0) {
        if ((exp & 1) != 0 && __builtin_mul_overflow(v, base, &v))
            return overflow(r);
        exp >>= 1;
        if (exp > 0 && __builtin_mul_overflow(base, base, &base))
            return overflow(r);
    }
    *out = tn_jint(v);
    return true;
}

static bool int_divide(tn_jrun *r, int op, int64_t a, int64_t b, tn_jval *out)
{
    if (b == 0)
        return tn_jrun_fail(r, op == TN_JOP_DIV   ? "division by zero"
                               : op == TN_JOP_MOD ? "integer modulo by zero"
                                                  : "integer division or modulo by zero");
    if (op == TN_JOP_DIV) {
        *out = tn_jfloat((double)((long double)a / (long double)b));
        return true;
    }
    if (b == -1) {
        if (op == TN_JOP_FLOORDIV && a == INT64_MIN)
            return overflow(r);
        *out = tn_jint(op == TN_JOP_FLOORDIV ? -a : 0);
        return true;
    }
    int64_t q = a / b, m = a % b;
    if (m != 0 && (m < 0) != (b < 0)) {
        q--;
        m += b;
    }
    *out = tn_jint(op == TN_JOP_FLOORDIV ? q : m);
    return true;
}

static bool int_binary(tn_jrun *r, int op, int64_t a, int64_t b, tn_jval *out)
{
    int64_t v = 0;
    bool over;
    switch (op) {
    case TN_JOP_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case TN_JOP_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case TN_JOP_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case TN_JOP_POW: return int_pow(r, a, b, out);
    default: return int_divide(r, op, a, b, out);
    }
    if (over)
        return overflow(r);
    *out = tn_jint(v);
    return true;
}

/* ---------------------------------------------------------------------------------- floats */

static double float_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m != 0 && (m < 0) != (b < 0))
        m += b;
    return m == 0 ? copysign(0.0, b) : m;
}

static double float_floordiv(double a, double b)
{
    double m = fmod(a, b), q = (a - m) / b;
    if (m != 0 && (m < 0) != (b < 0))
        q -= 1.0;
    if (q == 0)
        return copysign(0.0, a / b);
    double whole = floor(q);
    return q - whole > 0.5 ? whole + 1.0 : whole;
}

static bool float_pow(tn_jrun *r, double a, double b, tn_jval *out)
{
    if (a == 0 && b < 0)
        return tn_jrun_fail(r, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        return tn_jrun_fail(r, "a negative number has no real power of that kind");
    double v = pow(a, b);
    if (isinf(v) && isfinite(a) && isfinite(b))
        return tn_jrun_fail(r, "numerical result out of range");
    *out = tn_jfloat(v);
    return true;
}

static bool float_binary(tn_jrun *r, int op, double a, double b, tn_jval *out)
{
    double v = 0;
    if (b == 0 && (op == TN_JOP_DIV || op == TN_JOP_FLOORDIV || op == TN_JOP_MOD))
        return tn_jrun_fail(r, op == TN_JOP_DIV        ? "float division by zero"
                               : op == TN_JOP_FLOORDIV ? "float floor division by zero"
                                                       : "float modulo by zero");
    switch (op) {
    case TN_JOP_ADD: v = a + b; break;
    case TN_JOP_SUB: v = a - b; break;
    case TN_JOP_MUL: v = a * b; break;
    case TN_JOP_DIV: v = a / b; break;
    case TN_JOP_FLOORDIV: v = float_floordiv(a, b); break;
    case TN_JOP_MOD: v = float_mod(a, b); break;
    default: return float_pow(r, a, b, out);
    }
    *out = tn_jfloat(v);
    return true;
}

/* -------------------------------------------------------------------------- texts and lists */

static bool repeat_text(tn_jrun *r, tn_jval s, uint64_t n, tn_jval *out)
{
    const tn_jstr *t = s.as.s;
    if (t->size == 0 || n == 1) {
        *out = s;
        return true;
    }
    if (n > TN_JINJA_MEMORY_MAX / t->size)
        n = TN_JINJA_MEMORY_MAX / t->size + 1; /* more than there is: refused below */
    size_t size = t->size * (size_t)n;
    char *p = tn_jrun_take(r, size);
    if (p == NULL)
        return false;
    memcpy(p, t->p, t->size);
    for (size_t done = t->size, more; done < size; done += more) {
        more = done < size - done ? done : size - done; /* what is there, once more */
        memcpy(p + done, p, more);
    }
    TN_TRY(tn_jstr_counted(r, p, size, t->chars * (size_t)n, out));
    out->safe = s.safe;
    return true;
}

static bool repeat_list(tn_jrun *r, tn_jval list, uint64_t n, tn_jval *out)
{
    const tn_jlist *l = list.as.l;
    uint64_t most = TN_JINJA_MEMORY_MAX / sizeof *l->at;
    if (l->n > 0 && n > most / l->n)
        n = most / l->n + 1;
    uint64_t count = l->n * n;
    TN_TRY(tn_jrun_burn(r, count));
    tn_jval *at = tn_jlist_new(r, (tn_jtype)list.type, (uint32_t)count, out);
    if (at == NULL)
        return false;
    for (uint64_t i = 0; i < count; i++)
        at[i] = l->at[i % l->n];
    return true;
}

static bool repeat(tn_jrun *r, tn_jval what, int64_t n, tn_jval *out)
{
    uint64_t times = n < 0 ? 0 : (uint64_t)n;
    if (what.type != TN_J_STR)
        return repeat_list(r, what, times, out);
    if (times > 0)
        return repeat_text(r, what, times, out);
    TN_TRY(tn_jstr_text(r, "", out));
    out->safe = what.safe;
    return true;
}

/* Markup and plain text join as markup; the plain one is escaped. */
static bool join_texts(tn_jrun *r, tn_jval a, tn_jval b, tn_jval *out)
{
    bool safe = a.safe || b.safe;
    if (safe && !a.safe)
        TN_TRY(tn_jval_escape(r, a, &a));
    if (safe && !b.safe)
        TN_TRY(tn_jval_escape(r, b, &b));
    TN_TRY(tn_jstr_concat(r, a, b, out));
    out->safe = safe;
    return true;
}

static bool add(tn_jrun *r, tn_jval a, tn_jval b, tn_jval *out)
{
    if (a.type == TN_J_UNDEF || b.type == TN_J_UNDEF)
        return unsupported(r, TN_JOP_ADD, a, b);
    if (a.type == TN_J_STR && b.type == TN_J_STR)
        return join_texts(r, a, b, out);
    if (tn_jval_is_seq(a) && a.type == b.type)
        return tn_jlist_concat(r, a, b, out);
    if (a.type == TN_J_STR || tn_jval_is_seq(a))
        return tn_jrun_fail(r, "can only concatenate %s (not \"%s\") to %s", tn_jval_kind(a),
                            tn_jval_kind(b), tn_jval_kind(a));
    return unsupported(r, TN_JOP_ADD, a, b);
}

static bool can_repeat(tn_jval v)
{
    return v.type == TN_J_STR || tn_jval_is_seq(v);
}

static bool numbers(tn_jrun *r, int op, tn_jval a, tn_jval b, tn_jval *out)
{
    if (tn_jval_is_int(a) && tn_jval_is_int(b))
        return int_binary(r, op, tn_jval_int(a), tn_jval_int(b), out);
    return float_binary(r, op, tn_jval_float(a), tn_jval_float(b), out);
}

bool tn_jval_binary(tn_jrun *r, int op, tn_jval a, tn_jval b, tn_jval *out)
{
    if (tn_jval_is_number(a) && tn_jval_is_number(b))
        return numbers(r, op, a, b, out);
    if (op == TN_JOP_ADD)
        return add(r, a, b, out);
    if (op == TN_JOP_MUL && can_repeat(a) && tn_jval_is_int(b))
        return repeat(r, a, tn_jval_int(b), out);
    if (op == TN_JOP_MUL && can_repeat(b) && tn_jval_is_int(a))
        return repeat(r, b, tn_jval_int(a), out);
    if (op == TN_JOP_MOD && a.type == TN_J_STR)
        return tn_jval_percent(r, a, b, out);
    if (op == TN_JOP_MUL && can_repeat(a) && b.type != TN_J_UNDEF)
        return tn_jrun_fail(r, "can't multiply sequence by non-int of type '%s'", tn_jval_kind(b));
    return unsupported(r, op, a, b);
}

bool tn_jval_signed(tn_jrun *r, bool minus, tn_jval v, tn_jval *out)
{
    if (v.type == TN_J_UNDEF)
        return tn_jundef_fail(r, v);
    if (!tn_jval_is_number(v))
        return tn_jrun_fail(r, "bad operand type for unary %c: '%s'", minus ? '-' : '+',
                            tn_jval_kind(v));
    if (v.type == TN_J_FLOAT) {
        *out = tn_jfloat(minus ? -v.as.f : v.as.f);
        return true;
    }
    int64_t i = tn_jval_int(v);
    if (minus && i == INT64_MIN)
        return overflow(r);
    *out = tn_jint(minus ? -i : i);
    return true;
}
