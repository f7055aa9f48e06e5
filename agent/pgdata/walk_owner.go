package pgdata

import (
	"os/user"
	"strconv"
)

// ownerNames gives the names of users and groups and remembers them: a data directory has
// a million files and two owners. An id without a name is the empty string.
type ownerNames struct {
	users, groups map[uint32]string
}

func (o *ownerNames) user(uid uint32) string {
	if name, ok := o.users[uid]; ok {
		return name
	}
	if o.users == nil {
		o.users = map[uint32]string{}
	}
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		o.users[uid] = u.Username
	} else {
		o.users[uid] = ""
	}
	return o.users[uid]
}

func (o *ownerNames) group(gid uint32) string {
	if name, ok := o.groups[gid]; ok {
		return name
	}
	if o.groups == nil {
		o.groups = map[uint32]string{}
	}
	if g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10)); err == nil {
		o.groups[gid] = g.Name
	} else {
		o.groups[gid] = ""
	}
	return o.groups[gid]
}
