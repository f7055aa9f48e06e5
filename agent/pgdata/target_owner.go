package pgdata

import (
	"cmp"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
)

// owner is who an entry is given to; without set it stays with the current user.
type owner struct {
	uid, gid int
	set      bool
}

// owners turns the names of a manifest into ids of this host. Only root can give
// files away: for anybody else everything belongs to the current user.
type owners struct {
	root          bool
	self          owner // who we are
	fallback      owner // takes what a name unknown here would get
	users, groups map[string]int
}

// resolveOwners looks up the users and groups of a manifest ("" stands for an owner
// without a name) and warns of those that cannot be had. fallback is the owner of the
// data directory, or root when it is not there yet.
func (t *Target) resolveOwners(users, groups []string, fallback owner) owners {
	o := owners{
		root: os.Geteuid() == 0, self: owner{uid: os.Geteuid(), gid: os.Getegid()}, fallback: fallback,
		users: map[string]int{}, groups: map[string]int{},
	}
	o.self.set = o.root
	if !o.root {
		t.warnNotOwn("user", users, userName(o.self.uid))
		t.warnNotOwn("group", groups, groupName(o.self.gid))
		return o
	}
	lookup := func(kind string, names []string, ids map[string]int, find func(string) (int, bool), instead string) {
		for _, name := range sorted(names) {
			id, ok := 0, false
			if name != "" {
				id, ok = find(name)
			}
			switch {
			case ok:
				ids[name] = id
			case name == "":
				t.log.Warn("unknown " + kind + " in backup manifest mapped to '" + instead + "'")
			default:
				t.log.Warn("unknown " + kind + " '" + name + "' in backup manifest mapped to '" + instead + "'")
			}
		}
	}
	lookup("user", users, o.users, func(name string) (int, bool) {
		u, err := user.Lookup(name)
		if err != nil {
			return numericID(name)
		}
		id, err := strconv.Atoi(u.Uid)
		return id, err == nil
	}, userName(fallback.uid))
	lookup("group", groups, o.groups, func(name string) (int, bool) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return numericID(name)
		}
		id, err := strconv.Atoi(g.Gid)
		return id, err == nil
	}, groupName(fallback.gid))
	return o
}

// numericID reads what List gives for the id of an owner without a name. The highest id
// is none: to chown it means that nothing is to change.
func numericID(name string) (int, bool) {
	id, err := strconv.ParseUint(name, 10, 32)
	return int(id), err == nil && id != math.MaxUint32 && strconv.FormatUint(id, 10) == name
}

// warnNotOwn says which owners an ordinary user cannot restore.
func (t *Target) warnNotOwn(kind string, names []string, own string) {
	for _, name := range sorted(names) {
		switch name {
		case "":
			t.log.Warn("unknown " + kind + " in backup manifest mapped to current " + kind)
		case own:
		default:
			t.log.Warn("unknown " + kind + " '" + name + "' in backup manifest mapped to current " + kind)
		}
	}
}

func sorted(names []string) []string {
	return slices.Compact(slices.SortedFunc(slices.Values(names), cmp.Compare[string]))
}

// of gives the owner of an entry that the manifest says belongs to user and group.
func (o owners) of(user, group string) owner {
	if !o.root {
		return o.self
	}
	own := owner{uid: o.fallback.uid, gid: o.fallback.gid, set: true}
	if id, ok := o.users[user]; ok {
		own.uid = id
	}
	if id, ok := o.groups[group]; ok {
		own.gid = id
	}
	return own
}

// userName gives the name of an id, or the number where it has none.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}
