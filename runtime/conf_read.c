/* SPDX-License-Identifier: Apache-2.0 */
/* conf_read.c - reads an INI file, line by line.
 *
 * inih splits a line into key and value; everything around it is checked here first, since
 * inih tells neither line numbers nor sections without keys, cuts names at 50 bytes, skips
 * what follows a `]`, and drops the tail of a line longer than its buffer (200 bytes unless
 * built otherwise). So each line is looked at, trimmed and freed of its comment, and then
 * handed over; one that is longer than inih's buffer goes in pieces, as the continued lines
 * that inih knows from Python. Pieces are wrapped in a control character, which a file may
 * not hold, so that no piece begins or ends with something inih would trim. */
#include "conf.h"

#include "nearest.h"
#include "option.h"
#include "plain.h"
#include "quote.h"
#include "utf8seq.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRAP '\x01'
#define PIECE_ROOM 8         /* blank, two wraps, newline, NUL, and what inih keeps free */

static const char *const kind_name[] = {"tenon", "plugin", "model"};

static tn_status no_memory(tn_err *err)
{
    return tn_fail(err, TN_OS, "conf: out of memory");
}

typedef struct reading {
    tn_conf *conf;
    const char *file;     /* as messages call it */
    uint32_t kind;        /* the open section, TN_NONE before the first heading */
    const char *name;     /* borrowed from conf */
    char origin[TN_CONF_LINE_MAX + 16]; /* FILE:LINE */
    uint32_t line;
    /* The line that inih is being given. */
    const char *head;     /* key = value, trimmed, or NULL when it has been handed over */
    size_t head_size;     /* bytes of head up to the value */
    size_t size;
    size_t given;         /* bytes handed over so far */
    char key[TN_OPTION_KEY_MAX + 1];
    char value[TN_CONF_LINE_MAX + 1]; /* what inih gave back */
    size_t value_size;
    uint32_t calls;
    bool bad_key;
} reading;

static tn_status fail_line(const reading *r, tn_err *err, const char *what)
{
    return tn_fail(err, TN_CONFIG, "%s: %s", r->origin, what);
}

/* inih's reader: at most num - 1 bytes a call, like fgets. */
static char *give_line(char *to, int num, void *stream)
{
    reading *r = stream;
    if (r->head == NULL)
        return NULL;
    size_t room = num > 0 ? (size_t)num : 0, left = r->size - r->given;
    bool whole = r->given == 0 && left + PIECE_ROOM <= room;
    size_t n = left;
    if (whole) {
        memcpy(to, r->head, n);
        memcpy(to + n, "\n", 2);
        r->head = NULL;
        return to;
    }
    size_t front = r->given == 0 ? r->head_size : 0;
    if (room <= front + PIECE_ROOM)
        return NULL; /* seen later: nothing came back */
    if (n > room - PIECE_ROOM)
        n = room - PIECE_ROOM;
    char *o = to;
    if (front == 0)
        *o++ = ' '; /* a line that begins with a blank continues the value before it */
    memcpy(o, r->head + r->given, front);
    o += front;
    *o++ = WRAP;
    memcpy(o, r->head + r->given + front, n - front);
    o += n - front;
    *o++ = WRAP;
    *o++ = '\n';
    *o = 0;
    r->given += n;
    if (r->given == r->size)
        r->head = NULL;
    return to;
}

/* inih's handler: joins the pieces of one value. Non-zero: go on. */
static int take_pair(void *user, const char *in, const char *name, const char *value)
{
    reading *r = user;
    (void)in;
    size_t n = value == NULL ? 0 : strlen(value);
    if (r->calls++ == 0) {
        size_t size = name == NULL ? 0 : strlen(name);
        r->bad_key = size == 0 || size > TN_OPTION_KEY_MAX;
        if (!r->bad_key)
            memcpy(r->key, name, size + 1);
    }
    if (n >= 2 && value[0] == WRAP && value[n - 1] == WRAP) {
        value++;
        n -= 2;
    }
    if (n > TN_CONF_LINE_MAX - r->value_size)
        return 0;
    memcpy(r->value + r->value_size, value ? value : "", n);
    r->value_size += n;
    r->value[r->value_size] = 0;
    return 1;
}

static bool is_key(const char *s)
{
    if (*s < 'a' || *s > 'z')
        return false;
    for (; *s != 0; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '_'))
            return false;
    return true;
}

static tn_status check_key(const reading *r, tn_err *err)
{
    tn_quoted quoted;
    if (r->bad_key)
        return fail_line(r, err, "a key that is empty or longer than 64 bytes; expected "
                         "key = value");
    if (!is_key(r->key))
        return tn_fail(err, TN_CONFIG, "%s: key %s; expected small letters, digits and _",
                       r->origin, tn_quote_text(&quoted, r->key));
    if (r->kind == TN_NONE)
        return tn_fail(err, TN_CONFIG, "%s: key %s before any section; expected [tenon], "
                       "[plugin NAME] or [model NAME] above it", r->origin, r->key);
    const char *origin;
    if (tn_conf_get(r->conf, r->kind, r->name, r->key, &origin) != NULL)
        return tn_fail(err, TN_CONFIG, "%s: key %s a second time; expected it once, it "
                       "stands at %s", r->origin, r->key, origin);
    return TN_OK;
}

/* `text`: "key = value" without comment and outer blanks. */
static tn_status read_pair(reading *r, const char *text, size_t n, tn_err *err)
{
    size_t head = 0;
    while (head < n && text[head] != '=' && text[head] != ':')
        head++;
    if (head == n) {
        tn_quoted quoted;
        return tn_fail(err, TN_CONFIG, "%s: %s; expected key = value or [section]", r->origin,
                       tn_quote_text(&quoted, text));
    }
    if (head > TN_OPTION_KEY_MAX + 64)
        return fail_line(r, err, "a key that is longer than 64 bytes; expected key = value");
    for (head++; head < n && (text[head] == ' ' || text[head] == '\t'); head++)
        if (head > 2 * TN_OPTION_KEY_MAX)
            return fail_line(r, err, "more than 64 blanks before the value; expected "
                             "key = value");
    r->head = text;
    r->size = n;
    r->head_size = head;
    r->given = r->value_size = 0;
    r->value[0] = 0;
    r->calls = 0;
    int fault = ini_parse_stream(give_line, r, take_pair, r);
    if (fault == -2)
        return no_memory(err);
    if (fault != 0 || r->calls == 0 || r->value_size != n - head)
        return fail_line(r, err, "not a key and a value; expected key = value");
    tn_status st = check_key(r, err);
    if (st != TN_OK)
        return st;
    return tn_conf_set(r->conf, r->kind, r->name, r->key, r->value, r->origin, err);
}

static tn_status say_unknown_section(const reading *r, const char *word, tn_err *err)
{
    tn_quoted quoted;
    tn_nearest near;
    tn_nearest_open(&near, word);
    for (int i = 0; i < 3; i++)
        tn_nearest_try(&near, kind_name[i]);
    return tn_fail(err, TN_CONFIG, "%s: unknown section [%s]; expected [tenon], [plugin NAME] "
                   "or [model NAME]%s%s", r->origin, tn_quote_text(&quoted, word),
                   near.best ? ", nearest: " : "", near.best ? near.best : "");
}

static tn_status check_room(const reading *r, uint32_t kind, tn_err *err)
{
    static const uint32_t max[] = {1, TN_CONF_PLUGINS_MAX, TN_CONF_MODELS_MAX};
    if (tn_conf_count(r->conf, kind) < max[kind])
        return TN_OK;
    return tn_fail(err, TN_CONFIG, "%s: one [%s NAME] too many; expected at most %u",
                   r->origin, kind_name[kind], max[kind]);
}

/* `word` is the inside of the brackets, terminated, blanks trimmed. */
static tn_status open_section(reading *r, char *word, tn_err *err)
{
    tn_quoted quoted;
    uint32_t kind = 0;
    size_t n = strcspn(word, " \t");
    char *name = word + n + strspn(word + n, " \t");
    word[n] = 0;
    while (kind < 3 && strcmp(word, kind_name[kind]) != 0)
        kind++;
    if (kind == 3)
        return say_unknown_section(r, word, err);
    if (!tn_conf_is_name(kind, name))
        return tn_fail(err, TN_CONFIG, "%s: [%s] with the name %s; expected %s", r->origin,
                       kind_name[kind], tn_quote_text(&quoted, name),
                       kind == TN_CONF_TENON ? "no name"
                       : kind == TN_CONF_PLUGIN ? "[a-z][a-z0-9_-]* of at most 32 bytes"
                       : "letters, digits and ._-/:@+ of at most 128 bytes");
    const char *old = tn_conf_origin(r->conf, kind, name);
    if (old != NULL)
        return tn_fail(err, TN_CONFIG, "%s: section [%s%s%s] a second time; expected it "
                       "once, it stands at %s", r->origin, kind_name[kind],
                       *name ? " " : "", name, old);
    tn_status st = check_room(r, kind, err);
    if (st == TN_OK)
        st = tn_conf_add(r->conf, kind, name, r->origin, err);
    if (st != TN_OK)
        return st;
    r->kind = kind;
    r->name = tn_conf_name(r->conf, kind, tn_conf_count(r->conf, kind) - 1);
    return TN_OK;
}

static tn_status read_heading(reading *r, char *text, size_t n, tn_err *err)
{
    char *end = memchr(text, ']', n);
    if (end == NULL)
        return fail_line(r, err, "a [ without its ]; expected [section]");
    if (end != text + n - 1)
        return fail_line(r, err, "text after the ]; expected [section] alone");
    do
        *end-- = 0;
    while (end > text && (*end == ' ' || *end == '\t'));
    return open_section(r, text + 1 + strspn(text + 1, " \t"), err);
}

static tn_status check_bytes(const reading *r, const char *s, size_t n, tn_err *err)
{
    for (size_t i = 0; i < n;) {
        size_t size = tn_utf8_size(s + i, n - i);
        if (size == 0)
            return fail_line(r, err, "bytes that are not UTF-8; expected text");
        if (s[i] != '\t' && tn_plain_is_control(s + i, size))
            return tn_fail(err, TN_CONFIG, "%s: control character 0x%02x; expected text",
                           r->origin, (unsigned char)s[i + size - 1]);
        i += size;
    }
    return TN_OK;
}

/* Length without a comment: ` ;` ends a value, as in inih. */
static size_t without_comment(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] == ';' && (i == 0 || s[i - 1] == ' ' || s[i - 1] == '\t'))
            return i;
    return n;
}

/* One line without its end; a buffer of its own because words in it get terminated. */
static tn_status read_line(reading *r, const char *s, size_t n, tn_err *err)
{
    char text[TN_CONF_LINE_MAX + 1];
    if (n > 0 && s[n - 1] == '\r')
        n--;
    if (n > TN_CONF_LINE_MAX)
        return tn_fail(err, TN_CONFIG, "%s: a line of %zu bytes; expected at most %u",
                       r->origin, n, TN_CONF_LINE_MAX);
    tn_status st = check_bytes(r, s, n, err);
    if (st != TN_OK)
        return st;
    n = without_comment(s, n);
    while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\t'))
        n--;
    for (; n > 0 && (*s == ' ' || *s == '\t'); n--)
        s++;
    if (n == 0 || *s == '#')
        return TN_OK;
    memcpy(text, s, n);
    text[n] = 0;
    return *s == '[' ? read_heading(r, text, n, err) : read_pair(r, text, n, err);
}

static tn_status read_text(tn_conf *c, const char *file, const char *text, size_t size,
                           tn_err *err)
{
    reading *r = calloc(1, sizeof *r);
    if (r == NULL)
        return no_memory(err);
    tn_status st = TN_OK;
    const char *end = text + size;
    r->conf = c;
    r->file = file;
    r->kind = TN_NONE;
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3;
    while (st == TN_OK && text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((stop ? stop : end) - text);
        snprintf(r->origin, sizeof r->origin, "%.4000s:%u", r->file, ++r->line);
        tn_plain_make(r->origin, sizeof r->origin);
        st = read_line(r, text, n, err);
        text = stop ? stop + 1 : end;
    }
    free(r);
    return st;
}

tn_status tn_conf_open_text(const char *text, size_t size, const char *name, tn_conf **out,
                            tn_err *err)
{
    tn_conf *c = NULL;
    if (size > TN_CONF_FILE_MAX)
        return tn_fail(err, TN_CONFIG, "%s: more than %u bytes; expected a smaller file", name,
                       TN_CONF_FILE_MAX);
    tn_status st = tn_conf_new(&c, err);
    if (st != TN_OK)
        return st;
    st = read_text(c, name, text, size, err);
    if (st != TN_OK) {
        tn_conf_close(c);
        return st;
    }
    *out = c;
    return TN_OK;
}

/* Reads at most one byte more than is allowed; a FIFO or device is refused unread. */
static tn_status read_file(int fd, const char *path, char **text, size_t *size, tn_err *err)
{
    struct stat s;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode))
        return tn_fail(err, TN_CONFIG, "%s: not a regular file; expected an INI file", path);
    char *data = malloc(TN_CONF_FILE_MAX + 1);
    size_t n = 0;
    if (data == NULL)
        return no_memory(err);
    while (n < TN_CONF_FILE_MAX + 1) {
        ssize_t got = read(fd, data + n, TN_CONF_FILE_MAX + 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            free(data);
            return tn_fail(err, TN_IO, "%s: cannot be read: %s", path, strerror(errno));
        }
        if (got == 0)
            break;
        n += (size_t)got;
    }
    *text = data;
    *size = n;
    return TN_OK;
}

tn_status tn_conf_open(const char *path, tn_conf **out, tn_err *err)
{
    char *text = NULL;
    size_t size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        tn_status st = errno == ENOENT || errno == ENOTDIR ? TN_NOINPUT
                     : errno == EACCES ? TN_NOPERM : TN_CONFIG;
        return tn_fail(err, st, "%s: cannot be opened: %s; expected an INI file", path,
                       strerror(errno));
    }
    tn_status st = read_file(fd, path, &text, &size, err);
    close(fd);
    if (st != TN_OK)
        return st;
    st = tn_conf_open_text(text, size, path, out, err);
    free(text);
    return st;
}

