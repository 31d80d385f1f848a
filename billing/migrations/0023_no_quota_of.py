"""The door `quota_of` goes: since 0016 `limits_of` gives all limits, and no running code asks the other."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("billing", "0022_told_state")]

    operations = [migrations.RunSQL("DROP FUNCTION quota_of(uuid)", migrations.RunSQL.noop)]
