#ifndef HELLO_H
#define HELLO_H

struct built {
	const char *file;
	const char *date;
	const char *time;
};

struct built where(void);
const char *environment(void);

#endif
