# Peak memory, a stacked bar per case: a device with all its ranks at the left, the largest rank's own at the right.
# device.dat, rank.dat: y, from, to (bytes), category, shared. system.dat: y, bytes.
name(i) = value(sprintf('CATEGORY_%d', i))
do for [k = 0 : CATEGORIES - 1] { if (name(k) ne '') { eval entry(BOX, name(k), color(k)) } }
eval entry(BOX, 'shared by the ranks (lighter)', tint(FAINT, 0.55))
eval entry(STROKE, 'as the system counts', INK)
load PLOTS.'/rows.gp'

SPLIT = 0.70 # of the width
set multiplot
set lmargin at screen LEFT / BASE
set rmargin at screen SPLIT
set xrange [0 : MOST_DEVICE * 1.03]
set xlabel DEVICES > 1 ? 'a device: its ranks and what they share' : 'all ranks and what they share'
STEP = step2(MOST_DEVICE, 5)
set xtics ()
do for [i = 0 : 20] { if (i * STEP <= MOST_DEVICE * 1.03) { set xtics add (bytes(i * STEP) i * STEP) } }
plot 'rows.dat' using (NaN):1:ytic(2), \
     'headers.dat' using (0):1:2 with labels left boxed offset 0.6, 0 textcolor rgb FAINT, \
     'device.dat' using 3:1:2:3:($1 - half):($1 + half):(tint(color($4), $5 > 0 ? 0.55 : 0)) with boxxyerror \
         fs solid 1 noborder lc rgb variable, \
     'system.dat' using 2:($1 - 0.5):(0):(1) with vectors nohead lw 2 lc rgb INK

eval page_is_labelled
set lmargin at screen SPLIT + 0.035
set rmargin at screen 0.965
set xrange [0 : MOST_RANK * 1.05]
set xlabel "the largest rank's own"
STEP = step2(MOST_RANK, 3)
set xtics ()
do for [i = 0 : 20] { if (i * STEP <= MOST_RANK * 1.05) { set xtics add (bytes(i * STEP) i * STEP) } }
set format y ''
plot 'rank.dat' using 3:1:2:3:($1 - half):($1 + half):(color($4)) with boxxyerror fs solid 1 noborder lc rgb variable
unset multiplot
