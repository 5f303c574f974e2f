/* SPDX-License-Identifier: Apache-2.0 */
/* frontsession.c - conversations as files for frontends. */
#include "frontsession.h"

#include "session.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MAX_BYTES 64u
#define PATH_SIZE 4096u

/* A name and where its file is. */
typedef struct spot {
    char what[96];               /* in messages: the path is nobody's business */
    char path[PATH_SIZE];
} spot;

static tn_status refuse(tn_err *err, tn_status st, const char *code, const char *param)
{
    snprintf(err->code, sizeof err->code, "%s", code);
    snprintf(err->param, sizeof err->param, "%s", param);
    return st;
}

static bool is_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "._-";
    size_t n = name != NULL ? strlen(name) : 0;
    return n > 0 && n <= NAME_MAX_BYTES && strspn(name, letters) == n;
}

static tn_status spot_make(const tn_served *served, const tn_session *s, const char *name,
                           const char *param, spot *out, tn_err *err)
{
    uint64_t owner[2];
    if (!is_name(name)) {
        tn_fail(err, TN_REFUSED, "%s: no such name can be; expected 1 to %u of letters, digits, "
                "\".\", \"_\" and \"-\"", param, NAME_MAX_BYTES);
        return refuse(err, TN_REFUSED, "value_out_of_range", param);
    }
    tn_session_owner(s->owner, owner);
    snprintf(out->what, sizeof out->what, "session %s", name);
    int n = snprintf(out->path, sizeof out->path, "%s/%s.%016llx%016llx" TN_SESSION_ENDING,
                     served->settings->session_dir, name, (unsigned long long)owner[0],
                     (unsigned long long)owner[1]);
    if (n < 0 || (size_t)n >= sizeof out->path)
        return tn_fail(err, TN_CONFIG, "session_dir: %d bytes with the name; expected fewer than "
                       "%u", n, PATH_SIZE);
    return TN_OK;
}

static tn_status is_offered(const tn_served *served, tn_err *err)
{
    if (served->settings->session_dir[0] != 0 && served->engine != NULL)
        return TN_OK;
    tn_fail(err, TN_UNSUPPORTED, "conversations are not kept in files here; expected a model "
            "that is served with session_dir");
    return refuse(err, TN_UNSUPPORTED, "sessions_not_offered", "");
}

/* What a client is told: whether it is the request or the file, and never a 500 for a file
 * that will be as damaged the next time. */
static tn_status tell(tn_status st, tn_err *err)
{
    if (st == TN_OK || err->code[0] != 0)
        return st == TN_DATA ? TN_REFUSED : st;
    switch (st) {
    case TN_NOINPUT: return refuse(err, TN_NOINPUT, "session_not_found", "session");
    case TN_DATA: return refuse(err, TN_REFUSED, "session_invalid", "session");
    case TN_UNSUPPORTED: return refuse(err, st, "sessions_not_offered", "");
    case TN_IO:
    case TN_NOPERM:
    case TN_CANTCREATE: return refuse(err, TN_UNAVAILABLE, "session_io", "session");
    default: return st;
    }
}

static tn_session_place place_of(tn_served *served, const tn_session *s, const spot *at)
{
    return (tn_session_place){
        .engine = served->engine, .fingerprint = served->fingerprint,
        .model = tn_served_name(served, 0), .recipe = &served->draft.recipe,
        .nrank = served->place.nrank, .path = at->path,
        .what = at->what,
        .salt = s->cache_salt, .owner = s->owner != NULL ? s->owner : "",
    };
}

/* ------------------------------------------------------------------------------- room */

static bool is_session(const char *name)
{
    size_t n = strlen(name), e = sizeof TN_SESSION_ENDING - 1;
    return (n > e && strcmp(name + n - e, TN_SESSION_ENDING) == 0) || strstr(name, TN_SESSION_ENDING ".") != NULL;
}

/* Bytes that the folder's sessions take, those being written included. */
static uint64_t bytes_taken(const char *dir)
{
    uint64_t sum = 0;
    struct stat st;
    struct dirent *e;
    DIR *d = opendir(dir);
    while (d != NULL && (e = readdir(d)) != NULL)
        if (is_session(e->d_name) &&
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
    if (d != NULL)
        closedir(d);
    return sum;
}

/* Whether `more` bytes may come, `instead` of a file that is there. */
static tn_status has_space(const tn_served *served, uint64_t more, const char *instead,
                           tn_err *err)
{
    struct stat st;
    uint64_t most = served->settings->session_space;
    uint64_t taken = bytes_taken(served->settings->session_dir);
    uint64_t old = stat(instead, &st) == 0 ? (uint64_t)st.st_size : 0;
    taken -= old < taken ? old : taken;
    if (most == 0 || (more <= most && taken <= most - more))
        return TN_OK;
    tn_fail(err, TN_REFUSED, "session: %llu bytes beside %llu that are kept already; expected at "
            "most session_space, %llu", (unsigned long long)more, (unsigned long long)taken,
            (unsigned long long)most);
    return refuse(err, TN_REFUSED, "session_too_large", "session");
}

/* At most what it can be: every token in a block of its own device's. */
static uint64_t bytes_wanted(const tn_served *served, uint32_t nid)
{
    uint32_t n = nid / served->limits.block_tokens + 1;
    return (uint64_t)n * served->need.block_bytes + served->need.slot_bytes +
           (uint64_t)nid * sizeof(int32_t) + 4096;
}

/* ------------------------------------------------------------------------------ calls */

static tn_status save(tn_served *served, tn_session *s, const spot *at, tn_err *err)
{
    int32_t *ids = NULL;
    uint64_t nid = 0;
    uint32_t cached = 0;
    if (s->prompt == NULL)
        return tn_fail(err, TN_INTERNAL, "session_save without a prompt");
    tn_status st = tn_engine_tokenize(served->engine, s->prompt, &ids, &nid, err);
    if (st != TN_OK)
        return st;
    if (nid == 0 || nid > served->limits.context_max) {
        tn_fail(err, TN_REFUSED, "%s: %llu tokens; expected 1 to %u", at->what,
                (unsigned long long)nid, served->limits.context_max);
        st = refuse(err, TN_REFUSED, "session_too_large", "session");
    }
    if (st == TN_OK)
        st = has_space(served, bytes_wanted(served, (uint32_t)nid), at->path, err);
    const tn_session_talk talk = {.id = ids, .nid = (uint32_t)nid};
    const tn_session_place place = place_of(served, s, at);
    if (st == TN_OK)
        st = tn_session_save(&place, &talk, &cached, err);
    free(ids);
    s->tokens = nid;
    s->cached_tokens = cached;
    return st;
}

tn_status tn_front_session_save(tn_served *served, tn_session *s, tn_err *err)
{
    spot at;
    tn_status st = is_offered(served, err);
    if (st == TN_OK)
        st = spot_make(served, s, s->name, "session", &at, err);
    if (st == TN_OK)
        st = save(served, s, &at, err);
    return tell(st, err);
}

tn_status tn_front_session_restore(tn_served *served, tn_session *s, tn_err *err)
{
    spot at;
    tn_session_talk talk = {0};
    uint32_t cached = 0;
    tn_status st = is_offered(served, err);
    if (st == TN_OK)
        st = spot_make(served, s, s->name, "session", &at, err);
    if (st != TN_OK)
        return tell(st, err);
    const tn_session_place place = place_of(served, s, &at);
    st = tn_session_restore(&place, &talk, &cached, err);
    s->tokens = talk.nid;
    s->cached_tokens = cached;
    tn_session_talk_close(&talk);
    return tell(st, err);
}

static tn_status fork_file(tn_served *served, tn_session *s, const spot *from, const spot *to,
                           tn_err *err)
{
    tn_session_file *file = NULL;
    tn_session_head head;
    tn_status st = tn_session_open(from->path, from->what, &file, &head, err);
    tn_session_close(file);
    if (st == TN_OK)
        st = has_space(served, tn_session_file_size(&head), "", err);
    if (st == TN_OK)
        st = tn_session_copy(from->path, from->what, to->path, to->what, err);
    if (st != TN_OK)
        return st;
    s->tokens = head.nid;
    s->cached_tokens = head.ncached;
    return TN_OK;
}

tn_status tn_front_session_fork(tn_served *served, tn_session *s, tn_err *err)
{
    spot from, to;
    tn_status st = is_offered(served, err);
    if (st == TN_OK)
        st = spot_make(served, s, s->name, "session", &from, err);
    if (st == TN_OK)
        st = spot_make(served, s, s->to, "to", &to, err);
    if (st == TN_OK)
        st = fork_file(served, s, &from, &to, err);
    return tell(st, err);
}
