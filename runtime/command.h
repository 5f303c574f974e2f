/* SPDX-License-Identifier: Apache-2.0 */
/* command.h - the commands of `tenon`, and what they share.
 *
 * A command gets the arguments behind its name and returns the exit code (sysexits, the
 * values of tn_status from 64 on). Results go to standard output, everything else to standard
 * error. */
#ifndef TN_COMMAND_H
#define TN_COMMAND_H

#include <tenon/plugin.h>

#include <stddef.h>

struct tn_house;
struct tn_flag;
struct tn_flags;
struct tn_buf;

int tn_cmd_serve(int argc, char *const *argv);
int tn_cmd_chat(int argc, char *const *argv);
int tn_cmd_complete(int argc, char *const *argv);
int tn_cmd_eval(int argc, char *const *argv);
int tn_cmd_bench(int argc, char *const *argv);
int tn_cmd_import(int argc, char *const *argv);
int tn_cmd_quantize(int argc, char *const *argv);
int tn_cmd_doctor(int argc, char *const *argv);
int tn_cmd_plan(int argc, char *const *argv);
int tn_cmd_session(int argc, char *const *argv);
int tn_cmd_plugin(int argc, char *const *argv);

/* Prints "tenon: <sentence>" on standard error, as one line whatever the sentence quotes. */
void tn_command_tell(const tn_err *err);
/* The same, and returns the exit code of the status. */
int tn_command_fail(tn_status st, const tn_err *err);
int tn_command_exit(tn_status st);
/* Writes all of it to standard output; TN_IO when that fails (a closed pipe, a full disk). */
tn_status tn_command_print(const char *text, size_t size, tn_err *err);

/* Own flags as numbers; absent gives the fallback. TN_USAGE names flag, value and range. */
tn_status tn_command_int(const struct tn_flags *f, const char *name, int64_t fallback,
                         int64_t least, int64_t greatest, int64_t *out, tn_err *err);
tn_status tn_command_float(const struct tn_flags *f, const char *name, float fallback,
                           float *out, tn_err *err);
/* A command that needs no house: reads `own` flags, answers --help with them below `title`, else
 * runs. Returns the exit code. */
int tn_command_alone(int argc, char *const *argv, const struct tn_flag *own, uint32_t nown,
                     const char *title, tn_status (*run)(const struct tn_flags *f, tn_err *err));
/* A whole file of at most `max` bytes, or standard input for "-"; malloc. */
tn_status tn_command_read(const char *path, size_t max, char **text, size_t *size, tn_err *err);

#endif
