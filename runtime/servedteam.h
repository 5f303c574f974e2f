/* SPDX-License-Identifier: Apache-2.0 */
/* servedteam.h - what bringing up a model adds when several ranks share it. */
#ifndef TN_SERVEDTEAM_H
#define TN_SERVEDTEAM_H

#include "served.h"

/* Sets s->place, and starts or joins the team where there are others. Nothing is joined for a
 * plan. */
tn_status tn_served_team(tn_served *s, const tn_served_setup *setup, tn_err *err);
/* Opens the device, of several cards the one that is this rank's. */
tn_status tn_served_open_card(tn_served *s, const tn_device_ref *d, tn_err *err);
/* Files and device are open (`mine` says so): are all ranks alike? Then joins them. */
tn_status tn_served_join(tn_served *s, const tn_served_setup *setup, tn_status mine, tn_err *err);
/* After compiling: the greatest need of all ranks becomes that of each, and the least memory. */
tn_status tn_served_agree(tn_served *s, tn_status mine, tn_err *err);
/* All is packed (`mine` says so) on all ranks? Rank 0 logs what each has read of the files. */
tn_status tn_served_loaded(tn_served *s, tn_status mine, tn_err *err);
/* Rank 0: the device that all ranks are. */
tn_status tn_served_lead(tn_served *s, const tn_device **device, tn_err *err);
/* Other ranks: until rank 0 lets go; TN_CANCELLED then. */
tn_status tn_served_follow(tn_served *s, tn_err *err);

#endif
